"""Commands on a model's experts: identify, stability, similarity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from ..errors import UserError
from .main import (
    data_option,
    given_sites,
    loading_options,
    main,
    progress_console,
    sites_options,
)
from .terminal import echo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..cards import Identification
    from ..engines.base import Engine
    from ..steering import Intervention
    from ..tasks.identification import IdentificationText, TextSource


def text_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the three options for identification text, of which a user gives one, and `--chunks`."""
    for option in (
        click.option("--chunks", type=click.IntRange(min=1),
                     help="With --text or --text-dir: chunks of 500 characters that are read of "
                     "each document, its first ones [4]."),
        click.option("--text-dir", type=click.Path(path_type=Path),
                     help="Folder of text documents: a sub-folder or file per domain."),
        click.option("--text", type=click.Path(path_type=Path),
                     help="Text documents: a JSONL file of objects with `text` and `domain`."),
        click.option("--suite", help="Suite whose identification text is read: name or YAML file."),
    ):  # fmt: skip
        command = option(command)
    return command


def given_text(options: Mapping[str, Any]) -> str | TextSource:
    """Return the suite's name or the text documents that the options name.

    Raises:
        UserError: not exactly one of them is given, or the documents cannot be read.
    """
    from ..tasks.identification import text_source

    return text_source(options["suite"], options["text"], options["text_dir"], options["chunks"])


@main.command("identify")
@click.argument("model")
@text_options
@click.option("--domain", required=True, help="Domain whose experts are identified.")
@click.option(
    "--method",
    default="dsmoe",
    show_default=True,
    help="Method that scores experts: see `dsmoe-eval list methods`.",
)
@click.option(
    "--experts",
    type=click.IntRange(min=1),
    help="Number of experts [the method's default, or 1 %].",
)
@click.option(
    "--keep", type=click.IntRange(min=1),
    help="Prune: mask all but this many experts of each layer; `bake` then makes a smaller model.",
)  # fmt: skip
@click.option(
    "--intervention",
    default="reweight",
    show_default=True,
    help="Kind of intervention: reweight, bias, amplify, force or mask.",
)
@click.option(
    "--strength",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    help="Strength of the intervention.",
)
@click.option(
    "--unit",
    type=click.Choice(["odds", "sigma"]),
    default="odds",
    show_default=True,
    help="Unit of a bias: sigma is the spread of each layer's logits over experts.",
)
@click.option(
    "--phase",
    type=click.Choice(["prompt", "generated"]),
    default="prompt",
    show_default=True,
    help="Count routing on the questions, or on the model's answers to them.",
)
@click.option(
    "--answer-tokens",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    help="With --phase generated: limit of tokens per answer.",
)
@click.option(
    "--chat-template", is_flag=True, help="Wrap each question in the model's chat template."
)
@click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="Engine that runs the model.",
)
@click.option(
    "--saliency-model", help="Another model, with the same tokenizer, that computes token saliency."
)
@click.option("--marker", multiple=True, help="TOKEN=COEFFICIENT for npmi [the suite's].")
@click.option(
    "--observations",
    type=click.Path(path_type=Path),
    help="Folder of recorded forward passes, which are reused [out/observations].",
)
@click.option(
    "--super-experts", type=click.Choice(["spare", "allow"]), default="spare", show_default=True,
    help="Whether experts whose removal breaks the model may be masked, pruned or forced out.",
)  # fmt: skip
@data_option
@click.option("--limit", type=click.IntRange(min=1), help="Smoke test: at most N texts per domain.")
@sites_options
@loading_options
@click.option("--device", help="A torch device, or auto [the first GPU, else cpu].")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File of the profile."
)
def identify_command(
    model: str, domain: str, method: str, output: Path, device: str | None, **rest: Any
) -> None:
    """Find the experts of a domain in MODEL and write a steering profile."""
    from ..engines.load import load_engine
    from ..files import write_text
    from ..runs.identification import identify, text_of_domain
    from ..runs.pruned import identify_pruned

    _check_pruning(rest)
    text = text_of_domain(given_text(rest), domain, method, rest["limit"], rest["data"])
    engine = load_engine(
        model,
        rest["engine"],
        device,
        dtype=rest["dtype"],
        attn_implementation=rest["attn_implementation"],
        sites=given_sites(rest["sites"], rest["block"]),
        enforce_eager=True,  # a compiled vLLM does not show its routing
    )
    common = {
        "settings": _settings(rest),
        "markers": _markers(rest["marker"]),
        "root": rest["observations"],
        "console": progress_console(),
        "spared": _spared(engine, text, rest),
    }
    if rest["keep"] is not None:
        profile = identify_pruned(engine, text, domain, method, rest["keep"], **common)
    else:
        kind = _intervention(rest["intervention"], rest["strength"], rest["unit"])
        profile = identify(
            engine, text, domain, method, intervention=kind, experts=rest["experts"], **common
        )
    write_text(output, profile.to_json())
    masked = "" if rest["keep"] is None else " masked: not the best"
    echo(f"{output}: profile {profile.id}, {profile.size}{masked} of {domain}")


def _spared(
    engine: Engine, text: IdentificationText, given: Mapping[str, Any]
) -> tuple[tuple[int, int], ...]:
    """Find the super experts if the profile could switch them off, and say which are spared."""
    from ..runs.guards import guard_text

    switches_off = given["keep"] is not None or given["intervention"] in ("mask", "force")
    if given["super_experts"] == "allow" or not switches_off:
        return ()
    guard = guard_text(engine, text, _settings(given), given["observations"])
    if words := guard.say("profile", "`--super-experts allow`"):
        echo(words, err=True)
    return guard.pairs


def _settings(given: Mapping[str, object]) -> Identification:
    """Return the presentation of the text that the options name."""
    from ..cards import Identification

    keys = ("phase", "answer_tokens", "chat_template", "saliency_model")
    return Identification.model_validate({key: given[key] for key in keys})


def _check_pruning(given: Mapping[str, object]) -> None:
    """Refuse options that `--keep` would ignore."""
    context = click.get_current_context()
    ignored = [
        f"--{name}"
        for name in ("experts", "intervention", "strength", "unit")
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
        and given[name] not in (None, "mask")
    ]
    if given["keep"] is not None and ignored:
        raise UserError(f"--keep masks all other experts: leave {' and '.join(ignored)} out")


def _intervention(kind: str, strength: float, unit: str) -> Intervention:
    from pydantic import ValidationError

    from ..steering.profile import Intervention, InterventionKind

    if kind == "residual":
        raise UserError(
            "residual steers by a vector, not by experts; a run with the arm residual writes its "
            "profile into the folder profiles of the run"
        )
    try:
        return Intervention.model_validate({"kind": kind, "strength": strength, "unit": unit})
    except ValidationError as error:
        kinds, reason = ", ".join(get_args(InterventionKind)), error.errors()[0]["msg"]
        raise UserError(
            f"no intervention {kind!r} of strength {strength:g} (of {kinds}): {reason}"
        ) from error


def _markers(given: tuple[str, ...]) -> dict[str, float] | None:
    markers = {}
    for one in given:
        text, _, coefficient = one.rpartition("=")
        try:
            markers[text] = float(coefficient)
        except ValueError:
            text = ""
        if not text:
            raise UserError(f"--marker {one!r} is not TOKEN=COEFFICIENT, such as '<think>=1'")
    return markers or None


@main.command("stability")
@click.argument("model")
@text_options
@click.option("--domain", required=True, help="Domain whose experts are identified.")
@click.option("--method", default="dsmoe", show_default=True, help="Method that scores experts.")
@click.option(
    "--experts", type=click.IntRange(min=1),
    help="Number of experts [the method's default, or 1 %].",
)  # fmt: skip
@click.option(
    "--resamples", type=click.IntRange(min=2), default=5, show_default=True,
    help="Number of resamples of the documents.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@data_option
@click.option("--limit", type=click.IntRange(min=1), help="Smoke test: at most N texts per task.")
@sites_options
@loading_options
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def stability_command(
    model: str, domain: str, method: str, as_json: bool, device: str | None, **rest: Any
) -> None:
    """Measure whether other documents would have chosen other experts of MODEL for a domain.

    Documents are drawn again with replacement, and the experts that each draw chooses are compared.
    No question is answered; `stability` in a plan measures the spread of gains too.
    """
    from ..engines.load import load_engine
    from ..reports import domain_stability_page
    from ..runs.identification import text_of_domain
    from ..runs.overlaps import domain_stability

    text = text_of_domain(given_text(rest), domain, method, rest["limit"], rest["data"])
    found = domain_stability(
        load_engine(
            model,
            device=device,
            dtype=rest["dtype"],
            attn_implementation=rest["attn_implementation"],
            sites=given_sites(rest["sites"], rest["block"]),
        ),
        text,
        domain,
        method,
        experts=rest["experts"],
        resamples=rest["resamples"],
        console=progress_console(),
    )
    if as_json:
        echo(json.dumps(found.to_dict()))
    else:
        echo(domain_stability_page(found, domain, method))


@main.command("similarity")
@click.argument("model")
@text_options
@data_option
@click.option(
    "--tokens",
    type=click.IntRange(min=100),
    default=512,
    show_default=True,
    help="Number of tokens whose outputs are compared.",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    help="Profile whose experts are compared with others.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@loading_options
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def similarity_command(model: str, tokens: int, out: Path | None, **rest: Any) -> None:
    """Measure how similar the experts of each layer of MODEL are (CKA of their outputs).

    If all experts do the same, steering has nothing to choose from.
    """
    from ..models import load_model
    from ..reports import render_similarity, similarity_page
    from ..steering import Profile
    from ..studies.similarity import read_texts, similarity

    profile = None if rest["profile"] is None else Profile.load(rest["profile"])
    texts = read_texts(given_text(rest), rest["data"])
    loaded = load_model(
        model,
        rest["device"],
        dtype=rest["dtype"],
        attn_implementation=rest["attn_implementation"],
    )
    result = similarity(loaded, texts, tokens, profile, progress_console())
    page = None if out is None else render_similarity(result, out)
    if rest["as_json"]:
        echo(json.dumps(result))
    else:
        echo(similarity_page(result) if page is None else page)
