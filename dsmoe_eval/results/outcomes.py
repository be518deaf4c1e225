"""Comparisons by outcomes that are no fractions: their figures in the outcome's unit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from ..cards import OUTCOMES, Continuous, Outcome
from ..stats import Claim, PairedResult, Unit, claim
from .paired import Hash, Judged, Levels, Name, Number, Record, Score, ordered

OVER = (
    "over_placebo",
    "specificity",
    "over_prompt",
    "over_pooled",
    "over_lora",
    "over_quantized",
)
"""The names of an arm's comparisons with other arms, on its target."""
_NEAR = 1e-7
"""Levels of leaderboard entries are kept to nine digits."""
Ends = Annotated[tuple[float, float], AfterValidator(ordered)]


class GainBound(Record):
    """The one-sided test, at half of the significance level, that no loss reaches the margin."""

    lower_bound: float | None
    p_value: Score


class OutcomeDifference(Judged):
    """A comparison of an arm (b) with base or a control (a); see `stats.PairedResult`.

    Attributes:
        level_a: the level of base or the control; `level_b` that of the arm.
        gain: the change for the better: minus that of the level where less is better.
        ci95: the 95 % interval of the gain; None where the items are one cluster, or all differ
            alike.
        mde80: the smallest gain that is shown with 80 % power; None where there is none.
        clusters: number of clusters of dependent items.
        p_adjusted: the p-value adjusted for its family, by Holm; None where nothing is claimed.
    """

    n: Annotated[int, Field(ge=1)]
    clusters: Number
    level_a: float
    level_b: float
    gain: float
    gained: Number
    lost: Number
    ci95: Ends | None
    p_value: Score
    test: str
    mde80: Annotated[float, Field(ge=0)] | None
    p_adjusted: Score | None = None
    non_inferiority: GainBound | None = None
    _outcome: Outcome | None = None

    def judge_by(self, levels: Levels, outcome: Outcome) -> None:
        """Set the levels of the run, with the outcome's margin, and the outcome."""
        self.judge(levels)
        self._outcome = outcome

    @property
    def non_inferior(self) -> bool | None:
        """Whether non-inferiority is shown; None where it is not tested."""
        if self.non_inferiority is None:
            return None
        return self.non_inferiority.p_value < self.levels.significance_level / 2

    @property
    def verdict(self) -> Claim:
        """The claim that the figures support, by the adjusted p-value if there is one."""
        levels = self.levels
        unit = Unit("" if self._outcome is None else self._outcome.unit)
        return claim(
            self.as_result(), levels.margin, levels.significance_level, self.p_adjusted, unit
        )

    @property
    def claim(self) -> Claim | None:
        """The claim that the figures support; None where nothing is claimed, as for a null arm."""
        return None if self.p_adjusted is None else self.verdict

    def as_result(self) -> PairedResult:
        """Return the result as a `stats.PairedResult` of which more is better."""
        sign = -1 if self._outcome is not None and self._outcome.sign < 0 else 1
        return PairedResult(
            n=self.n,
            score_a=sign * self.level_a,
            score_b=sign * self.level_b,
            delta=self.gain,
            ci95=(math.nan, math.nan) if self.ci95 is None else self.ci95,
            p_value=self.p_value,
            test=self.test,
            gained=self.gained,
            lost=self.lost,
            mde80=math.nan if self.mde80 is None else self.mde80,
            clusters=self.clusters,
        )


class TaskDifference(OutcomeDifference):
    """One task; `cells` are those of base and of the arm."""

    domain: Name
    task: Name
    cells: tuple[Hash, Hash]


class OutcomeResult(Record):
    """The comparisons of an arm by one outcome.

    Attributes:
        margin: the margin of non-inferiority, in the outcome's unit.
        target: the comparison with base on the target's tasks; None where none has the outcome.
        non_targets: the comparison on the tasks of all other domains together; None likewise.
        tasks: the comparisons on each task, in the order of the suite, the target's among them.
        over_placebo: the comparison with its placebo on the target; None where the plan has none.
        specificity: the comparison with its wrong-domain control; None where the plan has none.
        over_prompt: the comparison with naming the domain in the prompt; None likewise.
        over_pooled: that of a learned profile with the one of all targets' answers; None likewise.
        over_lora: that of a training that adds a loss, or is on a quantized model, with sft-lora;
            None likewise.
        over_quantized: that of an arm on a quantized model with that model; None likewise.
        without: the arm's tasks that have no such outcome, such as generated answers.
    """

    outcome: Continuous
    margin: Annotated[float, Field(gt=0)]
    target: OutcomeDifference | None
    non_targets: OutcomeDifference | None
    tasks: Annotated[tuple[TaskDifference, ...], Field(min_length=1)]
    over_placebo: OutcomeDifference | None = None
    specificity: OutcomeDifference | None = None
    over_prompt: OutcomeDifference | None = None
    without: tuple[Name, ...] = ()
    over_pooled: OutcomeDifference | None = None
    over_lora: OutcomeDifference | None = None
    over_quantized: OutcomeDifference | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        sign = self.about.sign
        for where, row in self.comparisons():
            change = sign * (row.level_b - row.level_a)
            if not math.isclose(row.gain, change, rel_tol=_NEAR, abs_tol=_NEAR):
                raise ValueError(
                    f"{self.outcome}, {where}: the gain is {row.gain:g}, and its levels give "
                    f"{change:g}"
                )
        items = sum(row.n for row in self.tasks)
        pools = [row.n for row in (self.target, self.non_targets) if row is not None]
        if sum(pools) != items:
            raise ValueError(f"{self.outcome}: {items} items of tasks, and {sum(pools)} together")
        return self

    @property
    def about(self) -> Outcome:
        """The outcome's unit and direction."""
        return OUTCOMES[self.outcome]

    def comparisons(self) -> Iterator[tuple[str, OutcomeDifference]]:
        """Yield every comparison with its path in the result."""
        for name in ("target", "non_targets", *OVER):
            row: OutcomeDifference | None = getattr(self, name)
            if row is not None:
                yield name, row
        for task in self.tasks:
            yield f"tasks[{task.task}]", task

    def judge(self, significance_level: float) -> None:
        """Set the significance level of the run that this is part of."""
        for _, row in self.comparisons():
            row.judge_by(Levels(significance_level, self.margin), self.about)
