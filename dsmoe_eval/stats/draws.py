"""A system compared with the mean of several random draws of a control, such as random experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from .clusters import ClusteredDifferences, clustered_differences
from .paired import PairedResult, as_pairs, compare_paired

DRAWS_TEST = "t over items and draws"


def compare_with_draws(
    draws: ArrayLike, score_b: ArrayLike, clusters: ArrayLike | None = None
) -> PairedResult:
    """Compare B with the mean of random draws of a control, on the same items.

    The difference is that to the mean of all draws that could have been made, so its variance has
    two parts: that of the mean difference over items (`ClusteredDifferences.standard_error`), and
    the variance of the draws' means over the number of draws. The sum is tested by Student's t with
    Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:110). It is rather too wide
    than too narrow, since the draws' means also differ by chance over items. One draw is compared
    as by `compare_paired`: its interval is for items, not for draws.

    Args:
        draws: Shape (draws, n), the scores of each draw; for one draw (1, n).
        score_b: Shape (n,), the scores of B.
        clusters: As for `compare_paired`.

    Raises:
        ValueError: As `compare_paired`; or there is no draw.
    """
    scores = np.asarray(draws)
    if scores.ndim != 2 or not len(scores):
        raise ValueError(f"draws has shape {scores.shape}; give one row of scores per draw.")
    if len(scores) == 1:
        return compare_paired(scores[0], score_b, clusters)
    a, b, codes = as_pairs(scores.astype(np.float64).mean(0), np.asarray(score_b, float), clusters)
    means = scores.mean(1, dtype=np.float64)
    spread = _Spread(clustered_differences(a, b, codes), float(means.var(ddof=1)), len(scores))
    return PairedResult(
        n=a.size,
        score_a=float(a.mean()),
        score_b=float(b.mean()),
        delta=spread.items.delta,
        ci95=spread.interval,
        p_value=spread.p_value,
        test=DRAWS_TEST,
        gained=int((b > a).sum()),
        lost=int((b < a).sum()),
        mde80=spread.smallest_effect,
        clusters=spread.items.sums.size,
    )


@dataclass(frozen=True, slots=True)
class _Spread:
    """The spread of a difference over items and over draws, whose means vary by `variance`."""

    items: ClusteredDifferences
    variance: float
    draws: int

    @property
    def _parts(self) -> tuple[float, float]:
        return self.items.standard_error**2, self.variance / self.draws

    @property
    def _error(self) -> float:
        return math.sqrt(sum(self._parts))

    @property
    def _degrees(self) -> float:
        items, draws = self._parts
        below = items**2 / self.items.degrees_of_freedom + draws**2 / (self.draws - 1)
        return (items + draws) ** 2 / below if below > 0 else self.items.degrees_of_freedom

    @property
    def interval(self) -> tuple[float, float]:
        if math.isnan(self._error):
            return math.nan, math.nan
        limit = 1.0 if self.items.bounded else math.inf
        reach = float(stdtrit(self._degrees, 0.975)) * self._error
        return max(-limit, self.items.delta - reach), min(limit, self.items.delta + reach)

    @property
    def p_value(self) -> float:
        if math.isnan(self._error):
            return 1.0
        if self._error == 0:
            return 1.0 if self.items.delta == 0 else 0.0
        return float(2 * stdtr(self._degrees, -abs(self.items.delta) / self._error))

    @property
    def smallest_effect(self) -> float:
        degrees = self._degrees
        effect = float(stdtrit(degrees, 0.975) + stdtrit(degrees, 0.8)) * self._error
        return math.nan if self.items.bounded and effect > 1 else effect
