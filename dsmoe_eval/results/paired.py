"""Two variants on the same items: the figures that are stored, and those that follow from them.

What follows (a difference, a claim and its words, a share) is computed when it is read, so a file
cannot contradict itself. P-values, intervals and smallest effects are stored, since
for graded or clustered scores they need every item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr

from ..stats import Claim, PairedResult, claim

Score = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]
Number = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=200)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
BINARY_TEST = "mid-p McNemar"
"""The test of single right or wrong answers, whose figures all follow from four counts."""


def ordered(ends: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of an interval if they are in order."""
    if ends[0] > ends[1]:
        raise ValueError(f"the interval ends at {ends[1]:g}, before it begins at {ends[0]:g}")
    return ends


Interval = Annotated[tuple[Change, Change], AfterValidator(ordered)]


class Record(BaseModel):
    """The base class of stored data: immutable; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
    )


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels by which a run judges its comparisons.

    Attributes:
        significance_level: the level of a two-sided claim; non-inferiority takes half of it,
            one-sided.
        margin: the change below which changes do not matter, a fraction.
    """

    significance_level: float
    margin: float


class Rates(Record):
    """The mean tokens of generated answers, the shares truncated and invalid, answers per item."""

    mean_tokens: Annotated[float, Field(ge=0)]
    truncated: Score
    invalid: Score
    samples: Number | None = None


class WholeAnswers(Record):
    """The items for which no answer of base or of the arm is truncated or invalid.

    A gain that is absent among these is a gain of format or length.
    """

    n: Number
    delta: Change | None


class Answers(Record):
    """The rates of generated answers, base's (a) and the other variant's (b).

    Attributes:
        n: the number of items whose answers were generated.
        count: the number of answers to them, on each side.
    """

    a: Rates
    b: Rates
    n: Number
    count: Annotated[int, Field(ge=1)]
    both_whole: WholeAnswers


class Judged(Record):
    """A comparison that is judged by the levels of its run; the run sets them."""

    _levels: Levels | None = PrivateAttr(default=None)

    def judge(self, levels: Levels) -> None:
        """Set the levels of the run that this is part of."""
        self._levels = levels

    @property
    def levels(self) -> Levels:
        """The levels by which the comparison is judged.

        Raises:
            ValueError: the comparison is part of no run.
        """
        if self._levels is None:
            raise ValueError("the comparison is part of no run, whose levels would judge it")
        return self._levels


class NonInferiority(Judged):
    """The one-sided test, at half of the significance level, that no drop reaches the margin."""

    lower_bound: Change
    p_value: Score

    @property
    def non_inferior(self) -> bool:
        """Whether non-inferiority is shown; if not, no drop is proven."""
        return self.p_value < self.significance_level

    @property
    def significance_level(self) -> float:
        """The one-sided significance level: half of the run's."""
        return self.levels.significance_level / 2

    @property
    def margin(self) -> float:
        """The largest drop that is tolerated, a fraction."""
        return self.levels.margin


class Tested(Judged):
    """The figures that need the items of a comparison, not only its counts.

    Attributes:
        ci95: the 95 % interval of the difference; -1 and 1 where the items are one cluster.
        mde80: the smallest difference found with 80 % power; None where none is large enough.
        clusters: number of clusters of dependent items; the number of items if all are independent.
        p_adjusted: the p-value adjusted for its family of claims, by Holm; None where nothing is
            claimed.
    """

    ci95: Interval
    p_value: Score
    test: str
    mde80: Annotated[float, Field(ge=0)] | None
    clusters: Number
    p_adjusted: Score | None = None
    non_inferiority: NonInferiority | None = None

    @property
    def bound_test(self) -> str:
        """The test behind `non_inferiority`: the one-sided partner of `test`."""
        return "Tango score test" if self.test == BINARY_TEST else self.test

    def judge(self, levels: Levels) -> None:
        """Set the levels of the run that this is part of."""
        super().judge(levels)
        if self.non_inferiority is not None:
            self.non_inferiority.judge(levels)


class Paired(Tested):
    """A comparison of an arm (b) with base or a control (a); see `stats.PairedResult`.

    Attributes:
        answers: the rates of generated answers; None where nothing was generated, and in a
            comparison with a control.
    """

    n: Annotated[int, Field(ge=1)]
    score_a: Score
    score_b: Score
    gained: Number
    lost: Number
    answers: Answers | None

    @property
    def delta(self) -> float:
        """The score of b minus that of a; for binary scores from the counts, which are exact."""
        if self.test == BINARY_TEST:
            return (self.gained - self.lost) / self.n
        return self.score_b - self.score_a

    @property
    def flipped(self) -> float:
        """The share of items whose score rose or fell."""
        return (self.gained + self.lost) / self.n

    @property
    def claim(self) -> Claim | None:
        """The claim that the figures support; None where nothing is claimed, as for a null arm."""
        if self.p_adjusted is None:
            return None
        levels = self.levels
        return claim(self.as_result(), levels.margin, levels.significance_level, self.p_adjusted)

    def as_result(self) -> PairedResult:
        """Return the result as a `stats.PairedResult`, with NaN for unknown values."""
        unknown = self.clusters == 1 and self.test != BINARY_TEST and self.ci95 == (-1.0, 1.0)
        return PairedResult(
            n=self.n,
            score_a=self.score_a,
            score_b=self.score_b,
            delta=self.delta,
            ci95=(math.nan, math.nan) if unknown else self.ci95,
            p_value=self.p_value,
            test=self.test,
            gained=self.gained,
            lost=self.lost,
            mde80=math.nan if self.mde80 is None else self.mde80,
            clusters=self.clusters,
        )


class Domain(Paired):
    """A non-target task of an arm."""

    domain: Name
    task: Name
    non_inferiority: NonInferiority


class Pooled(Tested):
    """All non-target items of an arm together: the figures that do not follow from its domains."""

    non_inferiority: NonInferiority


def pool(tested: Pooled, domains: Sequence[Domain]) -> Paired:
    """Return the comparison of all domains' items together."""
    items = sum(row.n for row in domains)
    score_a, score_b = (
        sum(_total(getattr(row, name), row.n) for row in domains) / items
        for name in ("score_a", "score_b")
    )
    pooled = Paired(
        **{name: getattr(tested, name) for name in Pooled.model_fields},
        n=items,
        score_a=min(score_a, 1.0),
        score_b=min(score_b, 1.0),
        gained=sum(row.gained for row in domains),
        lost=sum(row.lost for row in domains),
        answers=_pool_answers([row.answers for row in domains if row.answers is not None]),
    )
    if tested._levels is not None:
        pooled.judge(tested._levels)
    return pooled


def _pool_answers(parts: Sequence[Answers]) -> Answers | None:
    if not parts:
        return None
    count = sum(part.count for part in parts)
    whole = sum(part.both_whole.n for part in parts)
    change = sum((part.both_whole.delta or 0.0) * part.both_whole.n for part in parts)
    a, b = (_pool_rates([(getattr(p, side), p.count) for p in parts]) for side in "ab")
    whole_answers = WholeAnswers(n=whole, delta=change / whole if whole else None)
    return Answers(a=a, b=b, n=sum(p.n for p in parts), count=count, both_whole=whole_answers)


def _pool_rates(parts: Sequence[tuple[Rates, int]]) -> Rates:
    count = sum(own for _, own in parts)
    mean_tokens, truncated, invalid = (
        sum(_total(getattr(rates, name), own) for rates, own in parts) / count
        for name in ("mean_tokens", "truncated", "invalid")
    )
    return Rates(mean_tokens=mean_tokens, truncated=truncated, invalid=invalid)


def tokens_ratio(parts: Sequence[Answers]) -> float | None:
    """Return the ratio of generated tokens to base's, over the answers to several tasks.

    The ratio is 1 where options are scored, since both variants read the same text, and None where
    base generated nothing. Unlike time, it is the same in every run of a plan.
    """
    before, after = (
        sum(_total(getattr(part, side).mean_tokens, part.count) for part in parts) for side in "ab"
    )
    if not parts:
        return 1.0
    return after / before if before > 0 else None


def _total(mean: float, count: int) -> float:
    """Return the sum that a mean comes from: a whole number if it is one up to rounding."""
    total = mean * count
    whole = round(total)
    return float(whole) if math.isclose(total, whole, rel_tol=1e-8, abs_tol=1e-9) else total
