"""The numbers of items and samples that a suite's tasks need to show a change of a margin.

The same number serves two questions: finding a difference of the margin, two-sided at 0.05, and
showing that there is no drop of the margin where there is none, one-sided at 0.025; both with
80 % power, of about 7.85 * discordance / margin^2 items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import beta, chi2

from ..cards import Suite, Task
from ..errors import UserError
from ..results.cells import read_samples
from ..results.finished import FinishedRun
from ..stats import (
    SampleVariance,
    items_needed,
    items_needed_of_samples,
    sample_variance,
)
from ..tasks.loading import load_tasks
from .estimate import DISCORDANCE, published_items

_CONFIDENCE = 0.8
_MOST_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class Need:
    """The need of one task at one discordance.

    Attributes:
        discordance: assumption of the plan: the share of items on which two variants differ, or,
            with several samples per item, the variance of the difference of single ones. With a
            pilot, the upper 80 % confidence limit, since a small pilot is as often below the truth
            as above it (Browne 1995, Statistics in Medicine 14:1933).
        measured: the discordance in the pilot; None where it is assumed.
        arm: the steered arm of the pilot that differs most from base; None where it is assumed.
        items: the number of items needed, with the task's number of samples.
        samples: the number of samples needed of each existing item; None where no number is enough,
            or a pilot with several samples is missing.
    """

    discordance: float
    measured: float | None
    arm: str | None
    items: int
    samples: int | None


@dataclass(frozen=True, slots=True)
class TaskPower:
    """The needs of one task.

    Attributes:
        items: the number of items in its test split; None if neither the data nor the suite gives
            it.
        samples: the number of answers to each item.
        needs: the need by the pilot, or one per assumed discordance.
    """

    task: str
    domain: str
    roles: tuple[str, ...]
    items: int | None
    samples: int
    needs: tuple[Need, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self)


def plan_power(
    suite: Suite, margin: float, pilot: FinishedRun | None = None, data: Sequence[Path] = ()
) -> list[TaskPower]:
    """Compute the need of each target and non-target task.

    Args:
        suite: the suite of the tasks.
        margin: the change to be shown or ruled out, a fraction in (0, 1).
        pilot: a run of the suite; a task that it lacks is planned as without one.
        data: folders of data sets; if empty, they come from the hub.

    Raises:
        UserError: the margin is out of range, or the pilot is of another suite or lacks samples.
    """
    if not 0 < margin < 1:
        raise UserError(f"margin is {margin}; give a fraction such as 0.01 for one point")
    if pilot is not None and pilot.result.suite != suite.name:
        raise UserError(f"pilot {pilot.name} is no run of suite {suite.name!r}")
    unread: set[str] = set()
    return [
        TaskPower(
            task=task.name,
            domain=task.domain,
            roles=task.roles,
            items=(items := _items(suite, task, unread, data)),
            samples=task.samples,
            needs=_needs(task, items, margin, pilot),
        )
        for task in suite.tasks
        if {"target", "non-target"} & set(task.roles)
    ]


def _items(suite: Suite, task: Task, unread: set[str], data: Sequence[Path]) -> int | None:
    """Count a task's items in the data, else in the suite's figures; try a dead hub once."""
    if (task.data or task.name) not in unread:
        try:
            return len(load_tasks(suite, [task], "test", None, data)[task.name].items)
        except UserError:
            unread.add(task.data or task.name)
    return published_items(suite, task).get("test") or None


def _needs(
    task: Task, items: int | None, margin: float, pilot: FinishedRun | None
) -> tuple[Need, ...]:
    measured = [] if pilot is None else list(_measured(task, pilot))
    if not measured:
        return tuple(_of_one(max(share, margin), margin) for share in DISCORDANCE)
    if task.samples == 1:
        arm, changed, n = max(measured, key=lambda one: one[1] / one[2])
        limit = float(beta.ppf(_CONFIDENCE, changed + 1, n - changed)) if changed < n else 1.0
        return (_of_one(max(limit, margin), margin, changed / n, arm),)
    if pilot is None:
        raise ValueError("samples need a pilot")
    found = [(arm, *_variance(task, pilot, arm)) for arm, _, _ in measured]
    arm, variance, n = max(found, key=lambda one: one[1].items + one[1].samples)
    return (_of_samples(variance, n, task.samples, items, margin, arm),)


def _of_one(
    discordance: float, margin: float, measured: float | None = None, arm: str | None = None
) -> Need:
    return Need(discordance, measured, arm, items_needed(margin, discordance), None)


def _measured(task: Task, pilot: FinishedRun) -> Iterator[tuple[str, int, int]]:
    """Return (name, items changed, items) of steered arms: no controls if there are others."""
    steered = {one.name for one in pilot.variants if one.is_tuned}
    names = steered or {one.name for one in pilot.variants if not one.zero_strength}
    for (variant, target), arm in pilot.arms.items():
        if variant not in names or task.name not in arm.cells:
            continue
        rows = [row for row in arm.domains if row.task == task.name]
        row = rows[0] if rows else arm.target_result
        yield f"{variant} on {target}", row.gained + row.lost, row.n


def _variance(task: Task, pilot: FinishedRun, arm: str) -> tuple[SampleVariance, int]:
    """Return the variance of the differences of samples, and the number of items."""
    if pilot.folder is None:
        raise UserError(
            f"pilot {pilot.name}: task {task.name!r} has samples; give the run's folder"
        )
    variant, _, target = arm.partition(" on ")
    base = {row.task: row.cell for row in pilot.result.base}[task.name]
    cells = (base, pilot.arms[variant, target].cells[task.name])
    first, second = (read_samples(pilot.folder, cell).set_index("item")["scores"] for cell in cells)
    try:
        stacked = [np.stack(list(part)) for part in (first, second.loc[first.index])]
        return sample_variance(*stacked), len(first)
    except (ValueError, KeyError) as error:
        raise UserError(f"pilot {pilot.name}: task {task.name!r}: {error}") from error


def _of_samples(
    found: SampleVariance, n: int, samples: int, items: int | None, margin: float, arm: str
) -> Need:
    inflation = (n - 1) / float(chi2.ppf(1 - _CONFIDENCE, n - 1))
    # A pilot without any difference tells no spread: then as if a margin's worth of items changed.
    spread = max(found.items + found.samples, margin)
    share = found.samples / (found.items + found.samples) if found.items + found.samples else 0.0
    planned = SampleVariance(spread * inflation * (1 - share), spread * inflation * share)

    def needed(count: int) -> int:
        return items_needed_of_samples(margin, planned, count)

    return Need(
        discordance=planned.items + planned.samples,
        measured=found.items + found.samples,
        arm=arm,
        items=needed(samples),
        samples=None if items is None else _fewest_samples(needed, items),
    )


def _fewest_samples(needed: Callable[[int], int], items: int) -> int | None:
    """Find the fewest samples by bisection: more samples never need more items."""
    counts: Sequence[int] = range(1, _MOST_SAMPLES + 1)
    if needed(counts[-1]) > items:
        return None
    low, high = 0, counts[-1]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if needed(middle) <= items else (middle, high)
    return high
