"""Comparisons of texts whose shared beginning is computed once with the same texts, whole."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ..log import note
from ..tasks.language_model import ASKED_TASKS
from .requests import Answer


@dataclass(frozen=True, slots=True)
class SharingCheck:
    """The outcome of one comparison.

    Attributes:
        what: `log-likelihoods` or `answers`.
        tasks: the tasks whose requests were answered then.
        agrees: whether sharing goes on; if not, every text is computed whole from then on.
        difference: the largest difference, in nats; None where it is no number.
        tolerance: what it may be at most.
    """

    what: str
    tasks: tuple[str, ...]
    agrees: bool
    difference: float | None
    tolerance: float | None


def checked(
    what: str, agrees: bool, difference: float = math.nan, tolerance: float = math.nan
) -> SharingCheck:
    """Return the outcome of a comparison, which is also logged."""
    figures = (value if math.isfinite(value) else None for value in (difference, tolerance))
    check = SharingCheck(what, ASKED_TASKS.get(), agrees, *figures)
    note("shared beginnings compared", **asdict(check))
    return check


def largest_difference(one: Answer, other: Answer) -> float:
    """Return how far log-probabilities differ, up to where the tokens do, as they may by rounding.

    Both answers have their tokens' scores.
    """
    largest = 0.0
    for a, b in zip(one.scores, other.scores, strict=False):
        largest = max(largest, abs(a.logprob - b.logprob))
        if a.token != b.token:
            break
    return largest
