"""The confidence interval of one system's mean score."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .clusters import cluster_codes


def score_interval(
    scores: ArrayLike, clusters: ArrayLike | None = None, alpha: float = 0.05
) -> tuple[float, float]:
    """Compute Wilson's score interval at the effective number of independent binary items.

    That number is p (1 - p) over the variance of the mean, computed over whole clusters: for
    independent binary items it is n, and the interval is Wilson's (1927, JASA 22:209). If scores do
    not vary it is the number of clusters. The method follows Korn and Graubard (1998), Survey
    Methodology 24:193, with Wilson's interval instead of Clopper and Pearson's.

    Args:
        scores: Shape (n,), in [0, 1].
        clusters: Shape (n,), a label per item; None if items are independent.
        alpha: Two-sided significance level.

    Returns:
        (lower, upper); NaN for scores outside [0, 1], which have no such interval.

    Raises:
        ValueError: If there is no score, or a score is not finite.
    """
    from statsmodels.stats.proportion import proportion_confint

    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"scores has shape {x.shape} or is not finite; give one per item.")
    if x.min() < 0 or x.max() > 1:
        return math.nan, math.nan
    grouped = cluster_codes(clusters, x.size)
    codes = np.arange(x.size) if grouped is None else grouped
    mean, count = float(x.mean()), int(codes.max()) + 1
    sums = np.bincount(codes, weights=x - mean, minlength=count)
    variance = float((sums**2).sum()) / x.size**2
    if count > 1:
        variance *= count / (count - 1) * (x.size - 1) / x.size
    effective = float(count) if variance <= 1e-15 else mean * (1 - mean) / variance
    low, high = proportion_confint(mean * effective, effective, alpha, method="wilson")
    return float(low), float(high)
