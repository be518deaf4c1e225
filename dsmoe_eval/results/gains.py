"""The gains of an arm over base, item by item, and those of two runs against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ..stats import Claim, PairedResult, compare_gains, holm
from ..variants import get_variant
from .cells import read_samples
from .finished import FinishedRun, Key
from .folder import RunFolder

Part = Literal["target", "non_targets"]
PrimaryOutcome = Literal["score", "gold_logprob"]
Cells = Mapping[str, tuple[str, str]]
"""Task name -> the cells of base and of the arm."""


def primary_claim(run: FinishedRun, key: Key) -> Claim | None:
    """Return what an arm may claim of its target by the run's primary outcome; None: nothing."""
    arm = run.arms[key]
    if run.result.outcome == "score":
        return arm.target_result.claim
    found = arm.outcome(run.result.outcome)
    return None if found is None or found.target is None else found.target.claim


def gain_items(
    run: FinishedRun, key: Key, part: Part, outcome: PrimaryOutcome = "score"
) -> pd.DataFrame | None:
    """Return columns task, item, cluster, a (base's value), b (the arm's), one row per item.

    Returns:
        None if samples are missing, or no task of this part has the outcome.

    Raises:
        UserError: a file of the samples is damaged or was changed.
    """
    if run.folder is None:
        return None
    cells = _cells(run, key, part, outcome)
    parts = [_task_items(run.folder, task, both, outcome) for task, both in cells.items()]
    known = [one for one in parts if one is not None]
    return pd.concat(known) if known and len(known) == len(parts) else None


def pair_gains(now: pd.DataFrame, then: pd.DataFrame) -> pd.DataFrame | None:
    """Pair two runs' `gain_items`, with suffixes `_now` and `_then`; None: not the same items."""
    paired = now.merge(then, on=["task", "item"], suffixes=("_now", "_then"))
    return paired if len(paired) == len(now) == len(then) else None


def difference_of_gains(paired: pd.DataFrame) -> PairedResult:
    """Compare the gains of `pair_gains` by `stats.compare_gains`; the earlier run is A."""
    return compare_gains(
        paired["a_then"].to_numpy(),
        paired["b_then"].to_numpy(),
        paired["a_now"].to_numpy(),
        paired["b_now"].to_numpy(),
        paired["cluster_now"].to_numpy(),
    )


@dataclass(frozen=True, slots=True)
class GainChange:
    """The gain of an arm in a run against that in an earlier one, `result.delta`.

    Attributes:
        p_adjusted: the p-value, adjusted by Holm over all arms but controls on every target.
    """

    result: PairedResult
    p_adjusted: float

    def is_lost(self, significance_level: float, margin: float) -> bool:
        """Return whether the gain fell significantly, and perhaps by more than the margin."""
        fell = self.p_adjusted <= significance_level and self.result.delta < 0
        return fell and not self.result.ci95[0] > -margin


def gain_changes(
    now: FinishedRun, then: FinishedRun, part: Part, outcome: PrimaryOutcome
) -> dict[Key, GainChange] | None:
    """Compare the gains of every arm but controls with those of an earlier run, item by item.

    Returns:
        None if the two runs do not have the samples of the same items.
    """
    keys = [key for key in then.arms if get_variant(key[0]).family == "arms" and key in now.arms]
    results = []
    for key in keys:
        items = [gain_items(run, key, part, outcome) for run in (now, then)]
        paired = None if items[0] is None or items[1] is None else pair_gains(items[0], items[1])
        if paired is None:
            return None
        results.append(difference_of_gains(paired))
    adjusted = holm([one.p_value for one in results])
    return {
        key: GainChange(result, float(p))
        for key, result, p in zip(keys, results, adjusted, strict=True)
    }


def _cells(run: FinishedRun, key: Key, part: Part, outcome: PrimaryOutcome) -> Cells:
    arm = run.arms[key]
    if outcome == "score":
        others = [row.task for row in arm.domains]
        base = {row.task: row.cell for row in run.result.base}
        tasks = [arm.target_task] if part == "target" else others
        return {task: (base.get(task, ""), arm.cells[task]) for task in tasks}
    found = arm.outcome(outcome)
    rows = () if found is None else found.tasks
    return {row.task: row.cells for row in rows if (row.domain == arm.target) == (part == "target")}


def _task_items(
    folder: RunFolder, task: str, cells: tuple[str, str], outcome: PrimaryOutcome
) -> pd.DataFrame | None:
    if not all(cell and (folder.cell(cell) / "samples.parquet").is_file() for cell in cells):
        return None
    a, b = (read_samples(folder, cell, ("item", "cluster", outcome)) for cell in cells)
    merged = a.merge(b, on="item", suffixes=("_a", "_b"), validate="one_to_one")
    if not len(merged) == len(a) == len(b):
        return None
    columns = {"item": "item", "cluster": "cluster_a", "a": f"{outcome}_a", "b": f"{outcome}_b"}
    return pd.DataFrame({"task": task, **{name: merged[one] for name, one in columns.items()}})
