"""The command line: each command parses, calls one function of the rooms below, and prints.

Heavy imports happen inside the commands, so that `--help` is there at once.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from .errors import UserError

if TYPE_CHECKING:
    from .engines import ModelProbe
    from .steering import Intervention

EXIT_FAILED = 1
"""What was asked was done, and the answer is no."""
EXIT_UNDECIDED = 3
"""The request could not be met: usage, data, model, run time."""


class _Commands(click.Group):
    """Shows what a user can act on as one sentence; anything else is a bug and keeps its trace."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            return super().main(*args, **kwargs)
        except click.exceptions.Abort:
            _stop("interrupted; start the same command again to go on", 130)
        except KeyboardInterrupt:
            _stop("interrupted; start the same command again to go on", 130)
        except click.ClickException as error:
            _stop(error.format_message(), EXIT_UNDECIDED)
        except UserError as error:
            _stop(str(error), EXIT_UNDECIDED)
        except OSError as error:
            _stop(f"{error.filename or 'a file'}: {error.strerror or error}", EXIT_UNDECIDED)
        except Exception as error:
            from .steering import SteeringError  # imports torch, so only once something failed

            if not isinstance(error, SteeringError):
                raise
            _stop(f"steering refused: {error}", EXIT_UNDECIDED)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"dsmoe-eval: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dsmoe-eval")
def main() -> None:
    """What steering a mixture-of-experts model towards a domain gains, and what it costs."""
    # Third parties' notes on their own future are not for our users.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@main.command("run")
@click.argument("plan")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run [out/<plan>].")
@click.option("--limit", type=click.IntRange(min=1), help="At most N items a task, to try it out.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def run_command(plan: str, out: Path | None, limit: int | None, device: str | None) -> None:
    """Run PLAN (a name or a YAML file): the whole evaluation and its report.

    Started again on the same folder, it does only what is missing.
    """
    from .reports import render
    from .runs import run

    folder = run(plan, out, limit=limit, device=device)
    page = render(folder)
    click.echo(page.read_text(encoding="utf-8").partition("\n## ")[0].strip())
    click.echo(f"\nreport: {folder.report / 'index.html'}")


@main.command("report")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Where to [RUN_FOLDER/report].")
def report_command(run_folder: Path, to: Path | None) -> None:
    """Render the report of a finished run again."""
    from .reports import render
    from .runs import RunFolder

    click.echo(render(RunFolder(run_folder), to).parent)


@main.command("leakage")
@click.argument("plan")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def leakage_command(plan: str, as_json: bool) -> None:
    """List the items that PLAN's splits share, near-duplicates included; exit code 1 if any.

    Every item is that of the later split, with the first of the earlier split that it repeats.
    """
    from .runs.job import plan_leakage

    found = plan_leakage(plan)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        for overlap in found.overlaps:
            click.echo(overlap)
        click.echo(f"overlap: {found}")
    if found.overlaps:
        sys.exit(EXIT_FAILED)


@main.command("identify")
@click.argument("model")
@click.option("--suite", required=True, help="Name or YAML file of the suite.")
@click.option("--domain", required=True, help="The domain whose experts are wanted.")
@click.option("--method", default="dsmoe", show_default=True, help="How experts are scored.")
@click.option("--experts", type=click.IntRange(min=1), help="How many [the method's, or 1 %].")
@click.option("--intervention", default="reweight", show_default=True, help="Its kind.")
@click.option("--strength", type=click.FloatRange(min=0), default=4.0, show_default=True)
@click.option(
    "--phase",
    type=click.Choice(["prompt", "generated"]),
    default="prompt",
    show_default=True,
    help="Read routing from the questions or from its own answers.",
)
@click.option("--answer-tokens", type=click.IntRange(min=2), default=64, show_default=True)
@click.option("--chat-template", is_flag=True, help="Ask in the model's template.")
@click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="Who runs the model.",
)
@click.option("--saliency-model", help="Another model that tells salient tokens.")
@click.option("--marker", multiple=True, help="TOKEN=COEFFICIENT for npmi [the suite's].")
@click.option(
    "--observations", type=click.Path(path_type=Path), help="Kept passes [out/observations]."
)
@click.option("--limit", type=click.IntRange(min=1), help="At most N texts of each domain.")
@click.option("--device", help="A torch device, or auto [the first GPU, else cpu].")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Profile.")
def identify_command(
    model: str, suite: str, domain: str, method: str, output: Path, device: str | None, **rest: Any
) -> None:
    """Find the experts of a domain in MODEL and write a steering profile."""
    from .cards import Identification
    from .runs.folder import write_text
    from .runs.identification import identification_suite, identify
    from .runs.observers import load_observer

    identification_suite(suite, domain, method)
    profile = identify(
        load_observer(model, rest["engine"], device),
        suite,
        domain,
        method,
        intervention=_intervention(rest["intervention"], rest["strength"]),
        settings=Identification(
            phase=rest["phase"],
            answer_tokens=rest["answer_tokens"],
            chat_template=rest["chat_template"],
            saliency_model=rest["saliency_model"],
        ),
        markers=_markers(rest["marker"]),
        root=rest["observations"],
        experts=rest["experts"],
        limit=rest["limit"],
    )
    write_text(output, profile.to_json())
    click.echo(f"{output}: profile {profile.id}, {len(profile.experts)} experts of {domain}")


def _intervention(kind: str, strength: float) -> Intervention:
    from pydantic import ValidationError

    from .steering.profile import Intervention, InterventionKind

    try:
        return Intervention.model_validate({"kind": kind, "strength": strength})
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


@main.command("trial")
@click.argument("plan")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run [out/<plan>].")
@click.option("--limit", type=click.IntRange(min=1), help="At most N items a task, to try it out.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
@click.option("--to", type=click.Path(path_type=Path), help="Where to render [RUN_FOLDER/trial].")
def trial_command(
    plan: str, out: Path | None, limit: int | None, device: str | None, to: Path | None
) -> None:
    """Put the identification methods of PLAN on trial against masking each expert in turn."""
    from .reports import render_trial
    from .runs import prepared, run_trial

    job = prepared(plan, out, limit, device)
    run_trial(job)
    click.echo(render_trial(job.folder.root, to or job.folder.root / "trial"))


@main.command("probe")
@click.argument("model")
@click.option("--profile", type=click.Path(path_type=Path), help="A profile [every intervention].")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def probe_command(model: str, profile: Path | None, as_json: bool, device: str | None) -> None:
    """Prove that steering works on MODEL; exit code 1 if it does not.

    MODEL is a hub id, a folder, an embedded model; or, without weights, the name of a model card or
    a config.json: then a small random model of that architecture is probed, in seconds.
    """
    from .engines import bare_config, identify_model, load_model, miniature, probe_model
    from .steering import Profile

    wanted = None if profile is None else Profile.load(profile)
    config = bare_config(model)
    if config is None:
        loaded = load_model(model, device)
        report = probe_model(loaded.model, loaded.identity, wanted)
    else:
        small = miniature(config).to(device or "cpu")
        report = probe_model(small, identify_model(f"{model}, random", "random", small), wanted)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        _print_probe(report)
    if not report.passed:
        sys.exit(EXIT_FAILED)


def _print_probe(report: ModelProbe) -> None:
    first, last, scoring = report.layers[0], report.layers[-1], report.scoring
    click.echo(f"{report.model}: {report.router}, top-{report.top_k} of {report.experts} experts")
    click.echo(f"routers found: {len(report.layers)}, in layers {first} to {last}")
    click.echo(f"scoring: {scoring or 'unseen, in fused kernels'}\n")
    click.echo(f"{'intervention':<20}{'result':<9}{'selection':>10}{'weight':>9}{'logit':>9}")
    for row in report.interventions:
        figures = row.figures
        if figures is None:
            click.echo(f"{row.name:<20}{'refused' if row.refused else 'FAILED'}")
            click.echo(textwrap.indent(textwrap.fill(str(row.refused or row.failed), 90), "    "))
            continue
        moved = (figures.selection_changed, figures.weight_max_change, figures.logit_max_change)
        cells = ("unseen" if one is None else format(one, ".3g") for one in moved)
        click.echo(f"{row.name:<20}{'passed':<9}" + "{:>10}{:>9}{:>9}".format(*cells))
    click.echo(
        "\nselection: share of tokens and layers whose experts change; weight, logit: the largest "
        "change.\nStrength zero changes no bit, and every token uses as many experts as before."
    )


@main.command("bake")
@click.argument("model")
@click.argument("profile", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def bake_command(
    model: str, profile: Path, output: Path, as_json: bool, device: str | None
) -> None:
    """Write PROFILE into a copy of MODEL's checkpoint, where that is exact, and prove it."""
    from .engines import bake
    from .steering import Profile

    report = bake(model, Profile.load(profile), output, device)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    click.echo(
        f"{report.folder}: {len(report.parameters)} parameters carry the profile; against the "
        f"steered original {report.selection_agreement:.2%} of the selections are the same and the "
        f"logits differ by at most {report.logit_max_difference:.3g} (steering moves them by up to "
        f"{report.logit_max_change:.3g})"
    )


@main.command("similarity")
@click.argument("model")
@click.option("--suite", help="Read the identification texts of this suite.")
@click.option("--text", type=click.Path(path_type=Path), help="Read this file, a text a line.")
@click.option("--tokens", type=click.IntRange(min=100), default=512, show_default=True)
@click.option("--profile", type=click.Path(path_type=Path), help="Compare its experts with others.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for page, picture, figures.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def similarity_command(
    model: str, suite: str | None, text: Path | None, tokens: int, out: Path | None, **rest: Any
) -> None:
    """Say how alike the experts of each layer of MODEL are (CKA of their outputs).

    Experts that all do the same leave steering nothing to choose from.
    """
    from .engines import load_model
    from .reports import render_similarity, similarity_page
    from .runs.similarity import read_texts, similarity
    from .steering import Profile

    profile = None if rest["profile"] is None else Profile.load(rest["profile"])
    texts = read_texts(suite, text)
    result = similarity(load_model(model, rest["device"]), texts, tokens, profile)
    page = None if out is None else render_similarity(result, out)
    if rest["as_json"]:
        click.echo(json.dumps(result))
    else:
        click.echo(similarity_page(result) if page is None else page)


@main.command("list")
@click.argument("what", type=click.Choice(["models", "suites", "variants", "methods", "plans"]))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_command(what: str, as_json: bool) -> None:
    """List what there is."""
    rows = _LISTINGS[what]()
    if as_json:
        click.echo(json.dumps([{"name": name, "summary": summary} for name, summary in rows]))
        return
    width = max(len(name) for name, _ in rows)
    for name, summary in rows:
        click.echo(f"{name:<{width}}  {summary}")


def _list_models() -> list[tuple[str, str]]:
    from .lab import EMBEDDED_MODELS
    from .registry import builtin_names, load_model_card

    embedded = [(name, f"embedded, {folder}") for name, folder in EMBEDDED_MODELS.items()]
    cards = [load_model_card(name) for name in builtin_names("models")]
    by_size = sorted(cards, key=lambda card: card.parameters.total)
    return [*embedded, *((card.name, card.summary) for card in by_size)]


def _list_suites() -> list[tuple[str, str]]:
    from .registry import builtin_names, load_suite

    return [(name, load_suite(name).description.strip()) for name in builtin_names("suites")]


def _list_plans() -> list[tuple[str, str]]:
    from .registry import builtin_names, load_plan

    return [(name, load_plan(name)[0].description.strip()) for name in builtin_names("plans")]


def _list_variants() -> list[tuple[str, str]]:
    from .variants import VARIANTS

    return [(name, variant.summary) for name, variant in VARIANTS.items()]


def _list_methods() -> list[tuple[str, str]]:
    from .experts import all_methods

    return [(name, method.summary) for name, method in all_methods().items()]


_LISTINGS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "models": _list_models,
    "suites": _list_suites,
    "variants": _list_variants,
    "methods": _list_methods,
    "plans": _list_plans,
}


@main.group("lab")
def lab_group() -> None:
    """The embedded models and their worlds."""


@lab_group.command("train")
@click.argument("model", type=click.Choice(["lab-poly"]))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to [out/<model>].")
def lab_train_command(model: str, out: Path | None) -> None:
    """Train MODEL from its seed and say how close it came to the one that ships."""
    from .lab.train import train_and_compare

    click.echo(train_and_compare(model, out or Path("out") / model))


@lab_group.command("data")
@click.argument("folder", type=click.Path(path_type=Path))
def lab_data_command(folder: Path) -> None:
    """Write the lab tasks' items, drawn from the world's seed, into FOLDER."""
    from .lab.items import write_task_data
    from .lab.world import build_world

    click.echo(f"{len(write_task_data(build_world(), folder))} files in {folder}")
