"""Intervals by Student's t: of a mean, and of a ratio of sums."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

Bounds = tuple[float, float]


def mean_interval(values: ArrayLike, level: float = 0.95) -> Bounds | None:
    """Return the interval of a mean of independent values; None if there are fewer than two.

    Args:
        values: [n].
        level: its coverage.
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return None
    error = sample.std(ddof=1) / math.sqrt(len(sample))
    return _around(float(sample.mean()), float(error), len(sample) - 1, level)


def ratio_interval(totals: ArrayLike, sizes: ArrayLike, level: float = 0.95) -> Bounds | None:
    """Return the interval of a ratio of two sums over clusters, such as bits over characters.

    The ratio is linearised (Cochran 1977, Sampling Techniques, 6.3): its variance is that of the
    sum of totals less ratio times size.

    Args:
        totals: [n], a cluster's numerator.
        sizes: [n], its denominator, positive.
        level: its coverage.

    Returns:
        The interval; None if there are fewer than two clusters.
    """
    above, below = np.asarray(totals, dtype=float), np.asarray(sizes, dtype=float)
    n = len(above)
    if n < 2:
        return None
    ratio = float(above.sum() / below.sum())
    rest = above - ratio * below
    error = math.sqrt(n / (n - 1) * float((rest**2).sum())) / float(below.sum())
    return _around(ratio, error, n - 1, level)


def _around(value: float, error: float, degrees: int, level: float) -> Bounds:
    half = float(stdtrit(degrees, (1 + level) / 2)) * error
    return value - half, value + half
