"""The ratio of two mean gains on the same items, with Fieller's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from .clusters import as_scores, cluster_codes, clustered_differences


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
    base: ArrayLike, arm: ArrayLike, best: ArrayLike, clusters: ArrayLike | None = None
) -> GainRatio:
    """Estimate the gain of an arm over base as a share of that of another one, on the same items.

    The variances are those of `compare_paired` for graded scores, so the interval is bounded if
    and only if the other gain differs from 0 by that test; the covariance is robust to clusters
    likewise (CR2).

    Args:
        base: Shape (n,), finite; base's score of each item, more is better.
        arm: The same of the arm.
        best: The same of the other one, whose gain is the whole.
        clusters: Shape (n,), a label per item; items that may depend on each other share one.

    Returns:
        The ratio with its interval.

    Raises:
        ValueError: A shape is not (n,), a value is no finite number, or a label is missing.
    """
    before, *after = (as_scores(one, "scores") for one in (base, arm, best))
    n = before.size
    codes = cluster_codes(clusters, n)
    gains = np.stack([one.astype(np.float64) - before for one in after])
    means = gains.mean(1)
    value = float(means[0] / means[1]) if means[1] else None
    parts = [clustered_differences(before, one, codes) for one in after]
    deviations = [part.standard_error for part in parts]
    if np.isnan(deviations).any():
        return GainRatio(value, None)
    groups = np.arange(n) if codes is None else codes
    sizes = np.bincount(groups)
    first, second = (
        np.bincount(groups, weights=row) - mean * sizes
        for row, mean in zip(gains, means, strict=True)
    )
    together = float((first * second / (1 - sizes / n)).sum()) / n**2
    covariance = np.array([[deviations[0] ** 2, together], [together, deviations[1] ** 2]])
    return GainRatio(value, fieller_interval(means, covariance, parts[0].degrees_of_freedom))


def fieller_interval(
    means: ArrayLike, covariance: ArrayLike, degrees: float
) -> tuple[float, float] | None:
    """Compute the 95 % interval of the ratio of two means.

    It has every r for which "the first is r times the second" is not refused by Student's t at 5 %
    (Fieller 1954, Journal of the Royal Statistical Society B 16:175). The set of these r is bounded
    if and only if the second differs from 0 by the same test.

    Args:
        means: Shape (2,).
        covariance: Shape (2, 2), of the means.
        degrees: The degrees of freedom.

    Returns:
        The ends; None if the set is not bounded.
    """
    square = float(stdtrit(degrees, 0.975)) ** 2
    # (first - r second)^2 <= t^2 variance(first - r second): a r^2 - 2 b r + c <= 0.
    both = np.asarray(means, dtype=np.float64)
    (c, b), (_, a) = (np.outer(both, both) - square * np.asarray(covariance)).tolist()
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a
