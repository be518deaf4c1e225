"""Commands about a model and a profile: probe, new-card, bake, convert."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UserError
from ..files import write_text
from .main import data_option, given_sites, loading_options, main, sites_options
from .terminal import EXIT_FAILED, echo

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ..cards import Rounding
    from ..models import ModelProbe, QuantizationProbe
    from ..steering import Profile, Sites

remote_code_option = click.option(
    "--remote-code",
    metavar="ARCHITECTURE",
    help="Run the code that comes with the model, if it is of this architecture (`model_type`).",
)


@main.command("probe")
@click.argument("model")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="Profile to check [every kind of intervention].",
)
@click.option(
    "--vllm-suite",
    metavar="SUITE",
    help="Also show how often vLLM selects other experts, on this suite's identification text.",
)
@data_option
@remote_code_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@sites_options
@loading_options
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def probe_command(
    model: str,
    profile: Path | None,
    vllm_suite: str | None,
    data: tuple[Path, ...],
    remote_code: str | None,
    as_json: bool,
    device: str | None,
    **rest: Any,
) -> None:
    """Check that steering works on MODEL; exit code 1 if it does not.

    MODEL is a hub id, a folder, an embedded model; or, without weights, the name or file of a model
    card, or a config.json: then a small random model of that architecture is probed, in seconds.
    """
    from ..models import bare_config
    from ..models.places import config_place
    from ..models.remote_code import allow_remote_code
    from ..steering import Profile

    wanted = None if profile is None else Profile.load(profile)
    if remote_code is not None:
        allow_remote_code(model, config_place(model), remote_code)
    sites = given_sites(rest.pop("sites"), rest.pop("block"), wanted)
    config = bare_config(model)
    if config is not None and any((*rest.values(), vllm_suite)):
        raise UserError(
            f"{model}: has no weights to load; --dtype, --attn-implementation and --vllm-suite are "
            "for a model that has, so leave them out"
        )
    found: dict[str, object] = {}
    if config is None and vllm_suite is not None:
        options = rest | {"sites": sites}
        found["engine_routing"] = _engine_routing(model, vllm_suite, data, device, options)
    report, quantized = _probed(model, config, wanted, device, rest, sites)
    if quantized is not None:
        found["quantization"] = quantized.to_dict()
    if as_json:
        echo(json.dumps(report.to_dict() | found))
    else:
        _print_probe(report)
        _print_quantization(quantized)
        _print_routing(found.get("engine_routing"), sites.noun)
    if not report.passed or not (quantized is None or quantized.passed):
        sys.exit(EXIT_FAILED)


def _probed(
    model: str,
    config: PreTrainedConfig | None,
    profile: Profile | None,
    device: str | None,
    options: dict[str, Any],
    sites: Sites,
) -> tuple[ModelProbe, QuantizationProbe | None]:
    """Probe a model, and its quantization if it claims any."""
    from ..models import identify_model, load_model, miniature, probe_model, probe_quantization

    if config is not None:
        small = miniature(config, dense=sites.kind == "neurons").to(device or "cpu")
        identity = identify_model(f"{model}, random", "random", small, sites)
        return probe_model(small, identity, profile), None
    loaded = load_model(model, device, **options, sites=sites)
    report = probe_model(loaded.model, loaded.identity, profile)
    if sites.kind == "neurons":  # the share is that of routed experts
        return report, None
    quantized = probe_quantization(model, loaded.model)
    return report, None if quantized.claimed is None else quantized


def _print_quantization(found: QuantizationProbe | None) -> None:
    if found is not None:
        failed = "" if found.passed else ": FAILED, its experts are not quantized"
        echo(
            f"\nquantization: {found.claimed}; {found.share:.1%} of the bytes of the experts' "
            f"weights are quantized{failed}"
        )


def _engine_routing(
    model: str, suite: str, data: tuple[Path, ...], device: str | None, options: dict[str, Any]
) -> dict[str, object]:
    """Return how often vLLM selects other units than transformers, for JSON."""
    from ..engines.load import load_engine
    from ..runs.agreement import probe_agreement
    from ..tasks.identification import identification_text

    text = identification_text(suite, data=data)
    found = probe_agreement(model, text, lambda: load_engine(model, device=device, **options))
    return found.model_dump(mode="json")


def _print_routing(routing: object, noun: str) -> None:
    if isinstance(routing, dict):
        echo(
            f"\nvLLM, run eagerly, selects other {noun} than transformers for "
            f"{routing['different']:.2%} of the tokens and layers, over {routing['tokens']:,} "
            "tokens of the suite's identification text."
        )


def _print_probe(report: ModelProbe) -> None:
    first, last, scoring = report.layers[0], report.layers[-1], report.scoring
    echo(f"{report.model}: {report.router}, top-{report.top_k} of {report.experts} {report.units}")
    kind = "routers" if report.units == "experts" else "FFNs"
    echo(f"{kind} found: {len(report.layers)}, in layers {first} to {last}")
    if kind == "routers":
        echo(f"scoring: {scoring or 'unseen, in fused kernels'}\n")
    echo(f"{'intervention':<20}{'result':<9}{'selection':>10}{'weight':>9}{'logit':>9}")
    for row in report.interventions:
        figures = row.figures
        if figures is None:
            echo(f"{row.name:<20}{'refused' if row.refused else 'FAILED'}")
            echo(textwrap.indent(textwrap.fill(str(row.refused or row.failed), 90), "    "))
            continue
        moved = (figures.selection_changed, figures.weight_max_change, figures.logit_max_change)
        cells = ("unseen" if one is None else format(one, ".3g") for one in moved)
        echo(f"{row.name:<20}{'passed':<9}" + "{:>10}{:>9}{:>9}".format(*cells))
        if (rounded := figures.rounding_changed) is not None:
            echo(f"    rounding the shift to 16 bits changes {rounded:.2%} of the selections")
    echo(
        "\nselection: share of tokens and layers whose experts change; weight, logit: the largest "
        "change.\nStrength zero changes no bit, and every token uses as many experts as before."
    )


@main.command("new-card")
@click.argument("model")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="New file [models/NAME.yaml].")
@remote_code_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def new_card_command(model: str, out: Path | None, remote_code: str | None, as_json: bool) -> None:
    """Write the card of MODEL and probe steering on it; exit code 1 if steering does not work.

    MODEL is a hub id, a folder or a config.json. No weights are read. A comment in the card says
    what is not known.
    """
    from ..models.new_card import card_name, new_card

    path = out or Path("models") / f"{card_name(model)}.yaml"
    if path.exists():
        raise UserError(f"{path}: exists already; delete it, or name another file with --out")
    new = new_card(model, remote_code)
    write_text(path, new.to_yaml())
    if as_json:
        echo(json.dumps({"file": str(path), **new.to_dict()}))
    else:
        echo(f"{path}: {new.card.summary}")
        echo(f"not known, see its comments: {', '.join(new.unknown)}\n")
        _print_probe(new.probe)
    if not new.probe.passed:
        sys.exit(EXIT_FAILED)


@main.command("bake")
@click.argument("model")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def bake_command(
    model: str, profile: Path, output: Path, as_json: bool, device: str | None
) -> None:
    """Write PROFILE into a copy of MODEL's checkpoint, if that is exact, and prove it.

    A mask of as many experts in each layer makes a smaller checkpoint, without these experts.
    PROFILE may be the folder of a fine-tuned arm's weights, such as RUN/adapters/math--sft-esft.
    """
    if profile.is_dir():
        _bake_trained(model, profile, output, as_json, device)
        return
    from ..models import bake
    from ..steering import Profile

    report = bake(model, Profile.load(profile), output, device)
    if as_json:
        echo(json.dumps(report.to_dict()))
        return
    echo(
        f"{report.folder}: the profile changed {len(report.parameters)} parameters; against the "
        f"steered original {report.selection_agreement:.2%} of the selections are the same and the "
        f"logits differ by at most {report.logit_max_difference:.3g} (steering moves them by up to "
        f"{report.logit_max_change:.3g})"
    )


def _bake_trained(
    model: str, trained: Path, output: Path, as_json: bool, device: str | None
) -> None:
    """Write a fine-tuned arm as a checkpoint, and say how near it is."""
    from ..variants.merging import bake_trained

    report = bake_trained(model, trained, output, device)
    if as_json:
        echo(json.dumps(asdict(report)))
        return
    echo(
        f"{report.folder}: the logits differ from the fine-tuned model's by at most "
        f"{report.logit_max_difference:.3g} (training moves them by up to "
        f"{report.logit_max_change:.3g})"
    )


@main.command("quantize")
@click.argument("model")
@click.option(
    "--to", type=click.Choice(["int8", "int4", "fp8"]), required=True,
    help="Form to which experts are rounded, in groups of 128 weights along the input.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def quantize_command(model: str, to: Rounding, output: Path, as_json: bool) -> None:
    """Write a copy of MODEL whose experts are rounded as quantization rounds them.

    The weights stay in their dtype, so that any engine computes them: it is what weight-only
    inference computes, up to the rounding of kernels.
    """
    from ..models import write_quantized

    found = write_quantized(model, to, output)
    if as_json:
        echo(json.dumps(found.to_dict()))
    else:
        echo(f"{output}: {found.share:.1%} of the bytes of the experts' weights are on {to}'s grid")


@main.command("convert")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="Round the weights to this dtype [as published].",
)
def convert_command(model: str, output: Path, dtype: str | None) -> None:
    """Write MODEL, a checkpoint of EMO (arXiv 2605.06663), in Qwen2-MoE's form, exactly.

    MODEL is a hub id or a folder of architecture `emo`, which only remote code knows.
    """
    import torch

    from ..models import convert, model_folder

    convert(model_folder(model), output, None if dtype is None else getattr(torch, dtype))
    probe = f"dsmoe-eval probe {shlex.quote(str(output))}"
    echo(f"{output}: {model} in Qwen2-MoE's form; check it: {probe}")
