"""The comparison of every arm with base by outcomes other than the score.

More is better of the values that are compared. For texts they are `loglikelihood / (B ln 2)`,
where B is the mean number of bytes of the compared texts: the mean of these values over texts is
minus lm-eval's `bits_per_byte`, the ratio of sums, and the mean of their paired differences is
exactly the difference of two such ratios, since both variants read the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeVar

import numpy as np
import pandas as pd

from ..cards import OUTCOMES, Continuous, Plan, Suite, Task, Variant
from ..errors import UserError
from ..stats import (
    NonInferiority,
    PairedResult,
    compare_paired,
    compare_with_draws,
    holm,
    non_inferiority,
)
from ..tasks.leakage import Leakage
from .cells import read_samples
from .claims import holm_by_family
from .comparisons import compare_arms
from .finished import FinishedRun
from .folder import RunFolder
from .foretold import read_foretold
from .other_arms import OTHERS, ArmCells, other_arms
from .outcomes import GainBound, OutcomeDifference, OutcomeResult, TaskDifference
from .pairing import pair_items
from .schema import RunResult
from .shares import with_shares

_COLUMNS: Mapping[Continuous, tuple[str, ...]] = {
    "gold_logprob": ("item", "cluster", "gold_logprob"),
    "bits_per_byte": ("item", "cluster", "loglikelihood", "bytes"),
}
Row = TypeVar("Row", bound=OutcomeDifference)
Reader = Callable[[str], pd.DataFrame]


def compare_run(
    folder: RunFolder,
    plan: Plan,
    suite: Suite,
    base: Mapping[str, str],
    arms: Sequence[ArmCells],
    identity: Mapping[str, object],
    leakage: Leakage,
) -> RunResult:
    """Return the content of `comparisons.json`: all comparisons, by the score and other outcomes.

    See `compare_arms` for the arguments; the cells of texts are among those of base and arms.
    """
    scored = [replace(arm, cells=_scored(suite, arm.cells)) for arm in arms]
    result = compare_arms(
        folder, plan, suite, _scored(suite, base), scored, identity, leakage
    ).model_copy(update={"outcome": plan.outcome})
    by_arm: list[list[OutcomeResult]] = [[] for _ in arms]
    for name in _COLUMNS:
        for own, found in zip(by_arm, _by_outcome(name, folder, plan, suite, base, arms),
                              strict=True):  # fmt: skip
            own += [found] if found is not None else []
    whole = [
        row.model_copy(update={"outcomes": tuple(own)})
        for row, own in zip(result.arms, by_arm, strict=True)
    ]
    for row in whole:
        row.judge(result.levels)
    compared = result.model_copy(update={"arms": tuple(whole), "foretold": read_foretold(folder)})
    return with_shares(FinishedRun(plan.name, compared, folder))


def _scored(suite: Suite, cells: Mapping[str, str]) -> dict[str, str]:
    """Return the cells of tasks with a score, which those of texts have not."""
    return {name: cell for name, cell in cells.items() if not suite.task(name).is_text}


@dataclass(frozen=True, slots=True)
class _Part:
    """One task of an arm, paired with base."""

    task: Task
    cells: tuple[str, str]
    paired: pd.DataFrame


@dataclass(frozen=True, slots=True)
class _Compared:
    """The figures of an arm by one outcome, before their p-values are adjusted."""

    arm: ArmCells
    target: OutcomeDifference | None
    non_targets: OutcomeDifference | None
    tasks: tuple[TaskDifference, ...]
    over: dict[str, OutcomeDifference | None]
    without: tuple[str, ...]


def _by_outcome(
    outcome: Continuous,
    folder: RunFolder,
    plan: Plan,
    suite: Suite,
    base: Mapping[str, str],
    arms: Sequence[ArmCells],
) -> list[OutcomeResult | None]:
    """Return each arm's comparisons by an outcome; None for all where no task has it."""
    read = cache(partial(read_samples, folder, columns=_COLUMNS[outcome]))
    asked = [task for task in suite.tasks if task.is_text == (outcome == "bits_per_byte")]
    having = [task for task in asked if task.name in base and _has(outcome, read(base[task.name]))]
    if not having:
        return [None] * len(arms)
    work = _Comparer(outcome, plan, read, base, asked, having, arms)
    return _adjusted(outcome, plan, [work.compare(arm) for arm in arms])


def _has(outcome: Continuous, rows: pd.DataFrame) -> bool:
    return outcome == "bits_per_byte" or bool(rows["gold_logprob"].notna().all())


@dataclass(frozen=True)
class _Comparer:
    outcome: Continuous
    plan: Plan
    read: Reader
    base: Mapping[str, str]
    asked: Sequence[Task]
    having: Sequence[Task]
    arms: Sequence[ArmCells]

    def compare(self, arm: ArmCells) -> _Compared:
        """Compare an arm with base, and on its target with its controls."""
        parts = [self._part(arm, task) for task in self.having if task.name in arm.cells]
        own = [part for part in parts if part.task.domain == arm.target]
        others = [part for part in parts if part.task.domain != arm.target]
        return _Compared(
            arm,
            self._difference([one.paired for one in own], held=False) if own else None,
            self._difference([one.paired for one in others], held=True) if others else None,
            tuple(self._task_row(part, held=part in others) for part in parts),
            {name: self._over(arm, own, other_arms(name, arm, self.arms)) for name in OTHERS},
            tuple(
                task.name for task in self.asked if task.name in arm.cells
                and task not in self.having
            ),
        )  # fmt: skip

    def _part(self, arm: ArmCells, task: Task, before: str | None = None) -> _Part:
        cells = before or self.base[task.name], arm.cells[task.name]
        paired = pair_items(self.read(cells[0]), self.read(cells[1]), task.name)
        if self.outcome == "bits_per_byte" and not paired["bytes_a"].equals(paired["bytes_b"]):
            raise UserError(
                f"task {task.name!r}: variant {arm.variant.name} read other bytes than base; "
                "delete its cells and run again"
            )
        return _Part(task, cells, paired)

    def _over(
        self, arm: ArmCells, own: Sequence[_Part], controls: Sequence[ArmCells]
    ) -> OutcomeDifference | None:
        """Compare an arm with the mean of its controls on the target; None where there is none."""
        if not controls or not own:
            return None
        pairs = [
            pd.concat(
                [self._part(arm, p.task, one.cells[p.task.name]).paired for p in own],
                ignore_index=True,
            )
            for one in controls
        ]
        draws = np.stack([outcome_column(self.outcome, rows, "a") for rows in pairs])
        after = outcome_column(self.outcome, pairs[0], "b")
        clusters = pairs[0]["cluster_a"].to_numpy()
        return difference(self.outcome, compare_with_draws(draws, after, clusters), None)

    def _task_row(self, part: _Part, *, held: bool) -> TaskDifference:
        row = self._difference([part.paired], held=held)
        return TaskDifference(
            **dict(row), domain=part.task.domain, task=part.task.name, cells=part.cells
        )

    def _difference(self, paired: Sequence[pd.DataFrame], *, held: bool) -> OutcomeDifference:
        rows = pd.concat(paired)
        a, b = (outcome_column(self.outcome, rows, side) for side in "ab")
        clusters = rows["cluster_a"].to_numpy()
        result = compare_paired(a, b, clusters)
        margin, level = self.plan.margin_of(self.outcome), self.plan.significance_level / 2
        bound = non_inferiority(a, b, margin, level, clusters) if held else None
        return difference(self.outcome, result, bound)


def outcome_column(
    outcome: Continuous, rows: pd.DataFrame, side: str
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the values of one side that are compared, more is better, [items]."""
    if outcome == "gold_logprob":
        return rows[f"gold_logprob_{side}"].to_numpy(dtype=np.float64)
    mean_bytes = float(rows["bytes_a"].mean())
    return rows[f"loglikelihood_{side}"].to_numpy(dtype=np.float64) / (mean_bytes * math.log(2))


def difference(
    outcome: Continuous, result: PairedResult, bound: NonInferiority | None
) -> OutcomeDifference:
    """Return the stored form of a comparison of values of which more is better."""
    sign = OUTCOMES[outcome].sign
    return OutcomeDifference(
        n=result.n,
        clusters=result.clusters,
        level_a=sign * result.score_a,
        level_b=sign * result.score_b,
        gain=result.delta,
        gained=result.gained,
        lost=result.lost,
        ci95=result.known_ci95,
        p_value=result.p_value,
        test=result.test,
        mde80=result.known_mde80,
        non_inferiority=None
        if bound is None
        else GainBound(
            lower_bound=None if math.isnan(bound.lower_bound) else bound.lower_bound,
            p_value=bound.p_value,
        ),
    )


def _adjusted(
    outcome: Continuous, plan: Plan, compared: Sequence[_Compared]
) -> list[OutcomeResult | None]:
    """Adjust the p-values of each family, which are those of the score: `schema.FAMILIES`."""
    variants = [one.arm.variant for one in compared]
    claims = partial(_family, variants)
    targets, pools = (
        claims([one.target for one in compared]),
        claims([one.non_targets for one in compared]),
    )
    over = {name: claims([one.over[name] for one in compared]) for name in compared[0].over}
    return [
        OutcomeResult(
            outcome=outcome,
            margin=plan.margin_of(outcome),
            target=targets[place],
            non_targets=pools[place],
            tasks=_tasks(one),
            **{name: rows[place] for name, rows in over.items()},
            without=one.without,
        )
        for place, one in enumerate(compared)
    ]


def _family(
    variants: Sequence[Variant], rows: Sequence[OutcomeDifference | None]
) -> list[OutcomeDifference | None]:
    """Return the rows with their p-values adjusted in the families of the score."""
    adjusted = holm_by_family(variants, [None if row is None else row.p_value for row in rows])
    return [
        None if row is None else row.model_copy(update={"p_adjusted": p})
        for row, p in zip(rows, adjusted, strict=True)
    ]


def _tasks(one: _Compared) -> tuple[TaskDifference, ...]:
    null, target = one.arm.variant.zero_strength, one.arm.target
    claiming = [None if null or row.domain == target else row for row in one.tasks]
    return tuple(row for row in _holm(claiming, one.tasks) if row is not None)


def _holm(claiming: Sequence[Row | None], rows: Sequence[Row | None]) -> list[Row | None]:
    """Return all rows, those of them that claim something with their adjusted p-values."""
    adjusted = iter(holm([row.p_value for row in claiming if row is not None]))
    return [
        row
        if claim is None or row is None
        else row.model_copy(update={"p_adjusted": float(next(adjusted))})
        for claim, row in zip(claiming, rows, strict=True)
    ]
