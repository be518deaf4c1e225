"""Commands that list what exists, and that make suites and the embedded model."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from .main import main, progress_console
from .terminal import echo

if TYPE_CHECKING:
    from ..tasks.new_suite import DomainSize

LISTED = ("models", "suites", "variants", "methods", "plans", "policies")


@main.command("list")
@click.argument("what", type=click.Choice(list(LISTED)))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def list_command(what: str, as_json: bool) -> None:
    """List the available models, suites, variants, methods, plans or policies."""
    rows = _LISTINGS[what]()
    if as_json:
        echo(json.dumps([{"name": name, "summary": summary} for name, summary in rows]))
        return
    width = max(len(name) for name, _ in rows)
    for name, summary in rows:
        echo(f"{name:<{width}}  {summary}")


@main.command("new-suite")
@click.option(
    "--text-dir",
    type=click.Path(path_type=Path),
    help="Folder of text documents: a sub-folder or file per domain.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="Text documents: a JSONL file of objects with `text` and `domain`.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="New folder of the suite; its name is the suite's name.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed by which documents go to identification, tuning and test.",
)
def new_suite_command(text_dir: Path | None, text: Path | None, out: Path, seed: int) -> None:
    """Write a suite, its tasks, data and a plan, from text documents by domain."""
    from ..tasks.new_suite import write_suite
    from ..tasks.texts import read_text_file, read_text_folder

    if text is not None and text_dir is None:
        documents = read_text_file(text)
    elif text_dir is not None and text is None:
        documents = read_text_folder(text_dir)
    else:
        raise UserError("give the text by --text or --text-dir, one of the two")
    sizes = write_suite(documents, out, seed)
    for one in sizes:
        echo(_size_of(one, 2 * len(sizes)))
    echo(
        "\npoints: the smallest change of the score that so many items can show with 80 % power, "
        "where variants\ndiffer on 30 % of them; the plan's outcome, gold_logprob, often shows "
        "smaller changes"
    )
    plan = shlex.quote(str(out / "plan.yaml"))
    echo(f"\n{out}: now: dsmoe-eval run {plan} --model path/to/model")


def _size_of(one: DomainSize, claims: int) -> str:
    """Return what a new suite has of a domain; `claims` are those of its plan, for Holm's level."""
    from ..stats import smallest_effect

    counts = ", ".join(f"{count} for {stage}" for stage, count in one.documents.items())
    points = 100 * smallest_effect(one.items["test"], 0.3, alpha=0.05 / claims)
    shown = "no change can be shown" if math.isnan(points) else f"{points:.0f} points"
    passages = "it: 1 passage" if one.repeated == 1 else f"them: {one.repeated} passages"
    left_out = f"; left out, since others repeat {passages}" if one.repeated else ""
    return (
        f"{one.domain}: documents: {counts}; items: {one.items['tuning']} for tuning, "
        f"{one.items['test']} for test ({shown}){left_out}"
    )


def _list_models() -> list[tuple[str, str]]:
    from ..lab import BUILT_MODELS, EMBEDDED_MODELS
    from ..registry import builtin_names, load_model_card

    embedded = [(name, f"embedded, {folder}") for name, folder in EMBEDDED_MODELS.items()]
    embedded += [(name, f"built at its first use, {what}") for name, what in BUILT_MODELS.items()]
    cards = [load_model_card(name) for name in builtin_names("models")]
    by_size = sorted(cards, key=lambda card: card.parameters.total)
    return [*embedded, *((card.name, card.summary) for card in by_size)]


def _list_suites() -> list[tuple[str, str]]:
    from ..registry import builtin_names, load_suite

    return [(name, load_suite(name).description.strip()) for name in builtin_names("suites")]


def _list_plans() -> list[tuple[str, str]]:
    from ..registry import builtin_names, load_plan

    return [(name, load_plan(name)[0].description.strip()) for name in builtin_names("plans")]


def _list_policies() -> list[tuple[str, str]]:
    from ..registry import builtin_names, load_policy

    return [(name, load_policy(name).description.strip()) for name in builtin_names("policies")]


def _list_variants() -> list[tuple[str, str]]:
    from ..variants import all_variants, get_variant

    folders = (Path.cwd() / "variants", Path.cwd().parent / "variants")
    own = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
    names = dict.fromkeys([*all_variants(), *own])
    return [(name, get_variant(name).summary) for name in names]


def _list_methods() -> list[tuple[str, str]]:
    from ..experts import all_methods

    return [(name, method.summary) for name, method in all_methods().items()]


_LISTINGS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "models": _list_models,
    "suites": _list_suites,
    "variants": _list_variants,
    "methods": _list_methods,
    "plans": _list_plans,
    "policies": _list_policies,
}


@main.group("lab")
def lab_group() -> None:
    """Train the embedded models, and write the data of their worlds."""


@lab_group.command("train")
@click.argument("model", type=click.Choice(["lab-poly", "lab-smol"]))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to [out/<model>].")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="lab-smol: a JSONL file of objects with `text` and `domain`, to train on.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="lab-smol: steps of training [200 on a CPU, 548 on a GPU].",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="lab-poly: another seed, for another model of the same world.",
)
@click.option(
    "--checkpoints",
    type=click.IntRange(min=0, max=11),
    default=0,
    show_default=True,
    help="lab-poly: keep N models of its training in step-* of the folder, the last half-way, each "
    "other half of the next.",
)
def lab_train_command(
    model: str,
    out: Path | None,
    text: Path | None,
    steps: int | None,
    seed: int | None,
    checkpoints: int,
) -> None:
    """Train MODEL again, and report how good it is or how close to the one that ships.

    lab-poly is trained from its seed. lab-smol is carved out of its dense model and distilled on
    the text of --text; a training that was stopped goes on if the command is given again.
    """
    folder = out or Path("out") / model
    if model == "lab-poly":
        from ..lab.train import train_and_compare

        if text or steps:
            raise UserError("--text and --steps are for lab-smol; lab-poly has a world of its own")
        echo(train_and_compare(model, folder, progress_console(), seed, checkpoints))
        return
    from ..lab.smol_training import train_smol
    from ..tasks.texts import documents_by_domain, read_text_file

    if seed is not None or checkpoints:
        raise UserError(
            "--seed and --checkpoints are for lab-poly; lab-smol is made from its dense model"
        )
    if text is None:
        raise UserError("lab-smol needs --text FILE.jsonl, with `text` and `domain` on each line")
    groups = documents_by_domain(read_text_file(text))
    texts = {domain: [one.text for one in group] for domain, group in groups.items()}
    echo(train_smol(texts, folder, progress_console(), steps))


@lab_group.command("data")
@click.argument("folder", type=click.Path(path_type=Path))
def lab_data_command(folder: Path) -> None:
    """Write the lab tasks' items, drawn from the world's seed, into FOLDER."""
    from ..lab.items import write_task_data
    from ..lab.world import build_world

    echo(f"{len(write_task_data(build_world(), folder))} files in {folder}")
