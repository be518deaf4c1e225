"""The comparison of two ways to compute texts: shared beginnings once, and every text whole."""

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
        what: the compared results, `log-likelihoods` or `answers`.
        tasks: names of the tasks whose requests were answered at that time.
        agrees: whether the results agree; if not, every text is computed whole from then on.
        difference: the largest difference, in nats; None if it is not a finite number.
        tolerance: the largest permitted difference, in nats; None if it is not a finite number.
    """

    what: str
    tasks: tuple[str, ...]
    agrees: bool
    difference: float | None
    tolerance: float | None


def checked(
    what: str, agrees: bool, difference: float = math.nan, tolerance: float = math.nan
) -> SharingCheck:
    """Return the outcome of a comparison, and log it."""
    figures = (value if math.isfinite(value) else None for value in (difference, tolerance))
    check = SharingCheck(what, ASKED_TASKS.get(), agrees, *figures)
    note("shared beginnings compared", **asdict(check))
    return check


def largest_difference(one: Answer, other: Answer) -> float:
    """Return the largest difference of log-probabilities between two answers, in nats.

    The comparison ends at the first token that differs, since rounding may change a token and all
    that follow. Both answers must have scores.
    """
    largest = 0.0
    for a, b in zip(one.scores, other.scores, strict=False):
        largest = max(largest, abs(a.logprob - b.logprob))
        if a.token != b.token:
            break
    return largest
