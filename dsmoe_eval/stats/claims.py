"""Claims: the conclusion from one comparison in words, and conclusions from several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .multiplicity import holm
from .paired import PairedResult

Verdict = Literal["improves", "harms", "equivalent", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a difference in words.

    Attributes:
        name: Its name behind a number.
        factor: The number that a difference is multiplied by.
        digits: The number of decimals.
    """

    name: str
    factor: float = 1.0
    digits: int = 3

    def number(self, difference: float, sign: str = "") -> str:
        """Return a difference without its unit, with a sign if ``sign`` is "+"."""
        return f"{self.factor * difference:{sign}.{self.digits}f}"

    def size(self, difference: float) -> str:
        """Return a difference with its unit."""
        return f"{self.number(difference)} {self.name}"


POINTS = Unit("points", 100, 1)
"""The unit of differences of scores that are fractions."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The conclusion from a comparison.

    Attributes:
        verdict: The conclusion in one word.
        words: The conclusion with the figures that support it.
    """

    verdict: Verdict
    words: str


def claim(
    result: PairedResult,
    margin: float,
    alpha: float = 0.05,
    p_adjusted: float | None = None,
    unit: Unit = POINTS,
) -> Claim:
    """Conclude from a comparison whether B improves, harms or is equivalent.

    "improves" or "harms" if the p-value is at most alpha, by the sign of the difference;
    otherwise "equivalent" if ``ci95`` is inside the margin, which is two one-sided tests at 0.025
    (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657); otherwise
    "inconclusive", with the smallest difference that the test detects with 80 % power.

    Args:
        result: A comparison of scores.
        margin: The difference below which a change does not matter, above 0.
        alpha: Two-sided significance level of "improves" and "harms".
        p_adjusted: The p-value adjusted for its family; by default ``result.p_value``.
        unit: The unit in which words give differences; by default points (hundredths), for scores
            that are fractions.

    Returns:
        The claim.

    Raises:
        ValueError: If ``margin`` is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; give a fraction above 0, such as 0.02.")
    p_value = result.p_value if p_adjusted is None else p_adjusted
    lower, upper = result.ci95
    inside = -margin < lower and upper < margin
    figures = _figures(result, p_value, unit)
    if p_value <= alpha and result.delta != 0:
        verdict: Verdict = "improves" if result.delta > 0 else "harms"
        small = f", less than the margin of {unit.size(margin)}" if inside else ""
        words = f"{verdict} by {unit.size(abs(result.delta))}{small} ({figures})"
        return Claim(verdict, words + disagreement(result, verdict, p_adjusted))
    if inside:
        return Claim("equivalent", f"equivalent within {unit.size(margin)} ({figures})")
    words = f"inconclusive ({figures}); {_smallest(result, unit)}"
    return Claim("inconclusive", words + disagreement(result, "inconclusive", p_adjusted))


def disagreement(result: PairedResult, verdict: str, p_adjusted: float | None) -> str:
    """Return why a verdict and the interval disagree about zero; empty if they agree.

    Args:
        result: A comparison.
        verdict: What `claim` says of it.
        p_adjusted: The p-value by which it says so; ``result.p_value`` if left out.
    """
    lower, upper = result.ci95
    excludes = lower > 0 or upper < 0
    if math.isnan(lower) or excludes == (verdict in {"improves", "harms"}):
        return ""
    if not excludes:
        return (
            "; the interval contains 0, since the verdict is by the p-value of the "
            f"{result.test} test and the interval by another procedure"
        )
    if verdict != "inconclusive":
        return ""
    if p_adjusted is not None and p_adjusted != result.p_value:
        return "; the interval excludes 0, but it is not adjusted for several comparisons as p is"
    return (
        "; the interval excludes 0, but the verdict is by the p-value of the "
        f"{result.test} test and the interval by another procedure"
    )


def _figures(result: PairedResult, p_value: float, unit: Unit) -> str:
    lower, upper = result.ci95
    known = not math.isnan(lower)
    ends = f"{unit.number(lower, '+')} to {unit.number(upper, '+')}"
    interval = f"95 % interval {ends}" if known else "no interval"
    p_words = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    return f"{unit.number(result.delta, '+')}, {interval}, {p_words}"


def _smallest(result: PairedResult, unit: Unit) -> str:
    if math.isnan(result.mde80):
        return f"{result.n} items could show no difference, however large"
    return f"{result.n} items show {unit.size(result.mde80)} or more with 80 % power"


def regressions(results: Sequence[PairedResult], alpha: float = 0.05) -> tuple[bool, ...]:
    """Find the comparisons with a significant drop, with p-values adjusted by Holm.

    The probability of any false drop is at most alpha.

    Args:
        results: The family of comparisons; may be empty.
        alpha: Two-sided significance level.

    Returns:
        For each comparison, whether its adjusted p-value is at most alpha and its difference is
        below 0.
    """
    adjusted = holm([result.p_value for result in results])
    return tuple(
        bool(p <= alpha and result.delta < 0) for p, result in zip(adjusted, results, strict=True)
    )
