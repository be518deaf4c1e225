"""The command that computes the number of items and samples that a suite needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .copying import folder_or_url
from .main import data_option, main
from .terminal import echo

if TYPE_CHECKING:
    from ..runs.outcome_power import OutcomeNeed
    from ..runs.power import TaskPower


@main.command("power")
@click.option("--suite", required=True, help="Name or YAML file of the suite.")
@click.option(
    "--margin", type=float, required=True, help="The change to show or rule out, a fraction."
)
@click.option(
    "--pilot",
    type=folder_or_url,
    help="A run of the suite that gives the discordance.",
)
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def power_command(
    suite: str, margin: float, pilot: Path | None, data: tuple[Path, ...], as_json: bool
) -> None:
    """Compute how many items, and samples of each, the tasks of a suite need.

    The numbers give 80 % power to find a change of the margin, or to rule out a drop of it if there
    is none; by the discordance that a pilot run measured, else by two assumed ones. Of a pilot also
    how many items each outcome needs to show the gains that it saw.
    """
    from ..registry import load_suite
    from ..results import read_finished
    from ..runs import plan_power
    from ..runs.outcome_power import outcome_needs

    card = load_suite(suite)
    run = None if pilot is None else read_finished(pilot)
    found = plan_power(card, margin, run, data)
    needs = [] if run is None else outcome_needs(run)
    if as_json:
        tasks = [task.to_dict() for task in found]
        outcomes = [need.to_dict() for need in needs]
        echo(json.dumps({"suite": card.name, "margin": margin, "tasks": tasks,
                         "outcomes": outcomes}))  # fmt: skip
        return
    _print([row for task in found for row in _rows(task)])
    if needs:
        _print_outcomes(needs)


def _rows(task: TaskPower) -> Iterator[tuple[str, ...]]:
    for need in task.needs:
        enough = task.items is not None and task.items >= need.items
        yield (
            task.task,
            ", ".join(role for role in task.roles if role != "identification"),
            "?" if task.items is None else f"{task.items:,}",
            str(task.samples),
            f"{need.discordance:.3f}",
            "assumed" if need.measured is None else f"{need.measured:.3f}, {need.arm}",
            f"{need.items:,}",
            "-" if need.samples is None else str(need.samples),
            "yes" if enough else "no",
        )


def _print(rows: list[tuple[str, ...]]) -> None:
    header = (
        "task", "role", "items", "samples", "planned", "measured", "items needed",
        "samples needed", "enough",
    )  # fmt: skip
    _table([header, *rows])
    echo(
        "\nplanned: share of items on which two variants differ (of several samples: the variance "
        "of\ntheir differences); of a pilot its upper 80 % limit. Two-sided at 0.05 for one test: "
        "Holm's\nprocedure over several claims needs more items, and so do items that share a "
        "question."
    )


def _print_outcomes(needs: list[OutcomeNeed]) -> None:
    """Print what each outcome needs to show the gain of the pilot, on the same arms."""
    echo("\nthe gains on the targets that the pilot saw, and the items that show them:\n")
    header = ("arm", "outcome", "items", "gain", "shown from", "unit", "items needed")
    _table([header, *map(_outcome_row, needs)])
    echo(
        "\nshown from: the smallest gain that the pilot's items show with 80 % power. The gain is "
        "taken\nas the true one: a planning figure, as uncertain as the gain itself."
    )


def _outcome_row(need: OutcomeNeed) -> tuple[str, ...]:
    return (
        need.arm,
        need.outcome,
        f"{need.items:,}",
        f"{need.gain:+.4f}",
        "none" if need.mde80 is None else f"{need.mde80:.4f}",
        need.unit,
        "none is enough" if need.needed is None else f"{need.needed:,}",
    )


def _table(table: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        echo("  ".join(cells).rstrip())
