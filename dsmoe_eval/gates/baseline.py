"""The change of a run's figures since an earlier run of the same model and suite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..errors import UserError
from ..results import RunFolder
from ..results.cells import read_samples
from ..results.finished import FinishedRun, Key
from ..stats import compare_paired
from .figures import read_figure
from .readings import Measurement, MissingFigureError

CHANGING = ("target_gain", "non_target_change")
"""The figures whose change since an earlier run is known."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier run, and the changes since.

    Attributes:
        name: the source of the earlier run.
        changes: the change by metric and arm; or the reason why there is none.
    """

    name: str
    changes: Mapping[tuple[str, Key], Measurement | str]

    def change(self, metric: str, key: Key) -> Measurement:
        """Return this run's figure minus the earlier run's.

        Raises:
            MissingFigureError: one of the runs lacks it.
        """
        found = self.changes.get((metric, key), f"the baseline has no arm {key[0]} on {key[1]}")
        if isinstance(found, str):
            raise MissingFigureError(found)
        return found


def changes_since(run: FinishedRun, earlier: FinishedRun) -> Baseline:
    """Compare two runs of the same model and suite by `changes_between`.

    Raises:
        UserError: the earlier run is of another model or suite.
    """
    for key, now, before in (
        ("model", run.result.run.fingerprint, earlier.result.run.fingerprint),
        ("suite", run.result.suite, earlier.result.suite),
    ):
        if now != before:
            raise UserError(
                f"baseline {earlier.name} is of another {key}; give a run of the same one"
            )
    return changes_between(run, earlier)


def changes_between(run: FinishedRun, earlier: FinishedRun) -> Baseline:
    """Return the difference between two runs' changes from base, for every arm that both have.

    The comparison is item by item if both runs have the samples of the same items. Otherwise it
    comes from the two intervals, as if they were independent, by MOVER (Zou and Donner 2008,
    Statistics in Medicine 27:1693), which is wide if the items are the same. `Measurement.words`
    says which method was used.
    """
    changes: dict[tuple[str, Key], Measurement | str] = {}
    for arm in run.arms.keys() & earlier.arms.keys():
        for metric in CHANGING:
            try:
                changes[metric, arm] = _change(run, earlier, metric, arm)
            except MissingFigureError as error:
                changes[metric, arm] = str(error)
    return Baseline(earlier.name, changes)


def _change(run: FinishedRun, earlier: FinishedRun, metric: str, arm: Key) -> Measurement:
    now, before = (read_figure(one, metric, arm) for one in (run, earlier))
    if not isinstance(now, Measurement) or not isinstance(before, Measurement):
        raise TypeError(metric)
    items = [_items(one, metric, arm) for one in (run, earlier)]
    if items[0] is None or items[1] is None:
        return _from_intervals(now, before, "by intervals: samples are missing")
    paired = items[0].merge(items[1], on=["task", "item"], suffixes=("_now", "_then"))
    if not len(paired) == len(items[0]) == len(items[1]):
        return _from_intervals(now, before, "by intervals: the items are not the same")
    return _item_by_item(paired)


def _from_intervals(now: Measurement, before: Measurement, words: str) -> Measurement:
    ends = (now.low, now.high, before.low, before.high)
    low, high, low_then, high_then = (math.nan if end is None else end for end in ends)
    value = now.value - before.value
    down = math.hypot(max(0.0, now.value - low), max(0.0, high_then - before.value))
    up = math.hypot(max(0.0, high - now.value), max(0.0, before.value - low_then))
    return Measurement(value, value - down, value + up, words)


def _item_by_item(paired: pd.DataFrame) -> Measurement:
    """Compare two runs item by item.

    If base's scores are equal in both runs, they cancel and the variants' scores are compared.
    """
    clusters = paired["cluster_now"].to_numpy()
    same_base = bool((paired["a_now"] == paired["a_then"]).all())
    if same_base and bool((paired["b_now"] == paired["b_then"]).all()):
        return Measurement(0.0, 0.0, 0.0, "item by item: every score is the same")
    if same_base:
        then, now, scale = paired["b_then"], paired["b_now"], 1.0
    else:  # differences in [-1, 1], moved to [0, 1], where the interval knows its bounds
        then = (paired["b_then"] - paired["a_then"] + 1) / 2
        now = (paired["b_now"] - paired["a_now"] + 1) / 2
        scale = 2.0
    found = compare_paired(then.to_numpy(), now.to_numpy(), clusters)
    low, high = found.ci95
    if math.isnan(low):
        raise MissingFigureError("the items are one cluster, so nothing can be said of a change")
    words = f"item by item: {found.test}, p = {found.p_value:.4f}"
    return Measurement(scale * found.delta, scale * low, scale * high, words)


def _items(run: FinishedRun, metric: str, key: Key) -> pd.DataFrame | None:
    """Return columns task, item, cluster, a (base's score), b; None if cells are missing."""
    arm = run.arms[key]
    others = [row.task for row in arm.domains]
    tasks = others if metric == "non_target_change" else [arm.target_task]
    base = {row.task: row.cell for row in run.result.base}
    if run.folder is None or not base.keys() >= set(tasks):
        return None
    parts = []
    for task in tasks:
        found = _samples(run.folder, [base[task], arm.cells[task]])
        if found is None:
            return None
        merged = found[0].merge(found[1], on="item", suffixes=("_a", "_b"), validate="one_to_one")
        if not len(merged) == len(found[0]) == len(found[1]):
            return None
        parts.append(
            pd.DataFrame(
                {
                    "task": task,
                    "item": merged["item"],
                    "cluster": merged["cluster_a"],
                    "a": merged["score_a"],
                    "b": merged["score_b"],
                }
            )
        )
    return pd.concat(parts)


def _samples(folder: RunFolder, cells: Sequence[str]) -> list[pd.DataFrame] | None:
    """Return the samples of cells that are on disk; a damaged one is an error."""
    if not all((folder.cell(cell) / "samples.parquet").is_file() for cell in cells):
        return None
    return [read_samples(folder, cell) for cell in cells]
