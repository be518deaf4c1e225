"""A plan on paper on several numbers of GPUs, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.text import Text

from ..errors import printable
from ..executors.scale import Makespan, ModelOnPaper, ScaleEstimate
from ..executors.simulation import CLOSE
from .estimate import plain_table


def scale_tables(found: ScaleEstimate) -> Group:
    """Return tables of makespans and models, and notes on what they rest on."""
    figures = ("makespan, hours", "GPU-hours", "utilisation")
    runs = plain_table(
        f"plan {found.plan}: its matrix on GPUs, on paper",
        ("GPUs",),
        figures,
        map(_makespan_row, found.makespans),
    )
    figures = ("GPUs per worker", "GPU-hours", "critical path, hours")
    models = plain_table("models, on paper", ("model",), figures, map(_model_row, found.models))
    return Group(runs, models, *_notes(found))


def _makespan_row(one: Makespan) -> Iterator[str]:
    yield f"{one.gpus:,}"
    if one.hours is None or one.gpu_hours is None or one.utilisation is None:
        yield from ("too few", "-", "-")
    else:
        yield from (hours(one.hours), hours(one.gpu_hours), f"{one.utilisation:.0%}")


def _model_row(one: ModelOnPaper) -> Iterator[str]:
    yield printable(one.model)
    yield f"{one.gpus:,}"
    yield hours(one.gpu_hours)
    yield hours(one.critical_hours)


def hours(figure: float) -> str:
    """Return hours as text: whole ones, or few with two significant digits."""
    if figure < 0.01:
        return "<0.01"
    return f"{figure:,.0f}" if figure >= 10 else f"{figure:.2g}"


def _notes(found: ScaleEstimate) -> Iterator[Text]:
    if (longest := found.critical) is None:
        yield Text("no makespan: no model could be counted", style="yellow")
    else:
        steps = ", ".join(f"{step} {hours(one)}" for step, one in longest.critical.items())
        yield Text(f"critical path: {printable(longest.model)}, in hours: {steps}")
    if found.enough is not None and found.least is not None:
        yield Text(
            f"more GPUs than {found.enough.gpus:,} hardly help: {hours(found.enough.hours or 0)} "
            f"hours, at most {CLOSE - 1:.0%} over the {hours(found.least.hours or 0)} hours of "
            "unlimited ones"
        )
    for assumption in found.assumptions:
        yield Text(assumption)
    if found.unknown_tasks:
        yield Text(
            f"not counted, since their tokens are not known here: {', '.join(found.unknown_tasks)} "
            f"({found.unknown_share:.0%} of the answers)",
            style="yellow",
        )
    for reason in found.left_out.values():
        yield Text(f"not counted: {printable(reason)}", style="yellow")
