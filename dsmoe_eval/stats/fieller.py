"""The ratio of two mean gains on the same items, with Fieller's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from .clusters import ClusteredDifferences, as_scores, cluster_codes


@dataclass(frozen=True, slots=True)
class GainRatio:
    """The ratio of two mean gains.

    Attributes:
        value: The ratio of the means; None if the mean below is 0.
        ci95: The 95 % interval; None if the ratios that the items allow are no bounded interval.
    """

    value: float | None
    ci95: tuple[float, float] | None


def ratio_of_gains(
    gains: ArrayLike, reference: ArrayLike, clusters: ArrayLike | None = None
) -> GainRatio:
    """Estimate the ratio of two mean gains on the same items.

    The interval holds every ratio r for which "mean gain = r times mean reference" is not refused
    by Student's t at 5 % (Fieller 1954, Journal of the Royal Statistical Society B 16:175). The
    covariance is robust to clusters (CR2, as `ClusteredDifferences.standard_error`). The set of
    these r is bounded if and only if the mean reference differs from 0 by the same test.

    Args:
        gains: Shape (n,), finite; the gain of each item.
        reference: Shape (n,), finite; the gain of each item that the ratio is of.
        clusters: Shape (n,), a label per item; items that may depend on each other share one.

    Returns:
        The ratio with its interval.

    Raises:
        ValueError: A shape is not (n,), a value is no finite number, or a label is missing.
    """
    both = np.stack([as_scores(gains, "gains"), as_scores(reference, "reference")])
    both = both.astype(np.float64)
    n = both.shape[1]
    codes = cluster_codes(clusters, n)
    codes = np.arange(n) if codes is None else codes
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.stack([np.bincount(codes, weights=row) for row in both])
    means = both.mean(1)
    value = float(means[0] / means[1]) if means[1] else None
    if sizes.size < 2:
        return GainRatio(value, None)
    residuals = sums - means[:, None] * sizes
    covariance = (residuals / (1 - sizes / n)) @ residuals.T / n**2
    degrees = ClusteredDifferences(sums[0], sizes, bounded=False).degrees_of_freedom
    square = float(stdtrit(degrees, 0.975)) ** 2
    # The r with (mean - r reference)^2 <= t^2 variance: a r^2 - 2 b r + c <= 0.
    (c, b), (_, a) = (np.outer(means, means) - square * covariance).tolist()
    if a <= 0:
        return GainRatio(value, None)
    root = math.sqrt(max(0.0, b * b - a * c))
    return GainRatio(value, ((b - root) / a, (b + root) / a))
