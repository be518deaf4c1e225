"""What moved between two results: of two revisions of a model, a profile or the harness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scipy.special import ndtr

from ..errors import UserError
from ..gates import CHANGING, changes_between
from ..gates.readings import Measurement
from ..results import FinishedRun, read_finished
from ..stats import holm
from .checks import read_entries
from .entries import submitted_runs

ALPHA = 0.05
"""Of what moved, over all rows of a diff, by Holm."""
_REACH = 1.959964


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one arm, then and now. Fractions.

    Attributes:
        metric: `target_gain` or `non_target_change`.
        change: now less then; low and high its 95 % interval.
        p_adjusted: that it is none, from the interval, by Holm over all rows.
        moved: beyond noise.
        how: item by item, or from intervals.
    """

    variant: str
    target: str
    metric: str
    then: float
    now: float
    change: float
    low: float
    high: float
    p_adjusted: float
    moved: bool
    how: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two results, and every arm of either.

    Attributes:
        changes: of arms that both have.
        only_before: arms that only the earlier result has, as `variant on target`.
        only_after: likewise.
        missing: figures that could not be compared, and why.
    """

    before: str
    after: str
    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    missing: tuple[str, ...]


def read_result(source: str) -> FinishedRun:
    """Read a result: a run's folder or `comparisons.json`, or a revision's leaderboard folder.

    Of a revision with several runs it is the last that was submitted, or `FOLDER:RUN_ID`.

    Raises:
        UserError: there is none.
    """
    folder, _, wanted = source.partition(":") if not Path(source).exists() else (source, "", "")
    if not (Path(folder) / "base.json").is_file():
        return read_finished(Path(source))
    place = Path(folder).resolve()
    files = read_entries(place.parents[2])
    own = place.relative_to(place.parents[2])
    broken = [one for one in files.faults if Path(one.file).parent == own]
    if broken:
        raise UserError(f"{folder}: {broken[0]}; see leaderboard check")
    runs = [one for one in submitted_runs(files.entries) if one.folder == own]
    found = [one for one in runs if one.run_id.startswith(wanted)]
    if not found:
        raise UserError(f"{source}: no such run; there are {', '.join(o.run_id for o in runs)}")
    return replace(found[-1].run, name=f"{folder}:{found[-1].run_id[:8]}")


def differences(before: FinishedRun, after: FinishedRun) -> Difference:
    """Find the figures that differ beyond noise between two results of one suite.

    Raises:
        UserError: they are of two suites, or a task has two versions.
    """
    _check_suites(before, after)
    found = changes_between(after, before)
    rows, missing = [], []
    for key in sorted(before.arms.keys() & after.arms.keys()):
        for metric in CHANGING:
            change = found.changes[metric, key]
            if isinstance(change, Measurement):
                rows.append((key, metric, change))
            else:
                missing.append(f"{metric} of {key[0]} on {key[1]}: {change}")
    adjusted = holm([_p_value(change) for _, _, change in rows])
    changes = tuple(
        Change(
            *key, metric, *_values(before, after, key, metric), change.value,
            change.low or 0.0, change.high or 0.0, float(p), bool(p <= ALPHA), change.words,
        )
        for (key, metric, change), p in zip(rows, adjusted, strict=True)
    )  # fmt: skip
    return Difference(
        before.name, after.name, changes,
        _named(before.arms.keys() - after.arms.keys()),
        _named(after.arms.keys() - before.arms.keys()), tuple(missing),
    )  # fmt: skip


def _check_suites(before: FinishedRun, after: FinishedRun) -> None:
    names = [one.result.suite for one in (before, after)]
    if names[0] != names[1]:
        raise UserError(f"{before.name} is of suite {names[0]}, {after.name} of {names[1]}")
    versions = [{row.task: row.version for row in one.result.base} for one in (before, after)]
    for task in versions[0].keys() & versions[1].keys():
        if versions[0][task] != versions[1][task]:
            raise UserError(
                f"task {task!r} is of two versions in {before.name} and {after.name}: other items, "
                "metric or prompt; run one of them again"
            )


def _p_value(change: Measurement) -> float:
    """Compute a two-sided p-value from the end of the 95 % interval that is nearer to zero."""
    low, high = change.low or 0.0, change.high or 0.0
    reach = change.value - low if change.value > 0 else high - change.value
    if change.value == 0 or reach <= 0:
        return 1.0 if change.value == 0 else 0.0
    return 2 * float(ndtr(-_REACH * abs(change.value) / reach))


def _values(
    before: FinishedRun, after: FinishedRun, key: tuple[str, str], metric: str
) -> tuple[float, float]:
    name = "target_result" if metric == "target_gain" else "non_target_result"
    then, now = (getattr(one.arms[key], name).delta for one in (before, after))
    return then, now


def _named(keys: set[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{variant} on {target}" for variant, target in sorted(keys))
