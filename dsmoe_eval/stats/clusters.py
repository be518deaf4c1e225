"""Paired differences that are not single binary items: summed per cluster, with a robust t test.

A cluster is a group of items whose scores may depend on each other, such as questions on one
passage; it is never split. An item that belongs to no group is a cluster of one item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class ClusteredDifferences:
    """Differences of scores, B minus A, summed within clusters.

    Clusters are sorted by sum and size, so that no result depends on the order of items.

    Attributes:
        sums: Shape (clusters,), sum of each cluster's differences.
        sizes: Shape (clusters,), number of items of each cluster.
        bounded: Whether all scores are in [0, 1].
    """

    sums: Floats
    sizes: Floats
    bounded: bool

    @property
    def delta(self) -> float:
        """The mean difference of the items."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def standard_error(self) -> float:
        """The standard error of `delta`, robust to clusters, and for what the sample hides.

        It is the CR2 estimator of Bell and McCaffrey (2002), Survey Methodology 28:169: each
        cluster's residual is divided by the root of the share of items outside the cluster. To its
        variance the variance of four more clusters is added, two that gain `_hidden` and two that
        lose it, as Agresti and Coull (1998), The American Statistician 52:119, add two successes
        and two failures to binary items. NaN for one cluster, and for unbounded scores that all
        differ alike, which do not show how they may vary.
        """
        count = self.sums.size
        if count < 2:
            return math.nan
        share, residuals = self._shares, self.sums - self.delta * self.sizes
        if not self.bounded and np.abs(residuals).max() <= _ROUNDING * np.abs(self.sums).max():
            return math.nan
        seen = math.sqrt(float((residuals**2 / (1 - share)).sum())) / float(self.sizes.sum())
        return math.hypot(seen, 2 * self._hidden(residuals) / (count + 4))

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's, of the CR2 variance; clusters - 1 if all have one size. NaN for one."""
        if self.sums.size < 2:
            return math.nan
        squares = self._shares**2
        leverage = squares / (1 - self._shares)
        return float(1 / (squares.sum() + leverage.sum() ** 2 - (leverage**2).sum()))

    def bound(self, tail: float) -> float:
        """Return the one-sided bound of `delta` by Student's t: 0.025 and 0.975 make an interval.

        For scores in [0, 1] it is within [-1, 1]. NaN without a standard error.
        """
        spread = self.standard_error
        if math.isnan(spread):
            return math.nan
        limit = 1.0 if self.bounded else math.inf
        reach = float(stdtrit(self.degrees_of_freedom, tail)) * spread
        return max(-limit, min(limit, self.delta + reach))

    def p_value(self, threshold: float) -> float:
        """Test "the true difference is at most `threshold`", one-sided, by Student's t.

        It is 1 without a standard error.
        """
        spread = self.standard_error
        if math.isnan(spread):
            return 1.0
        return float(stdtr(self.degrees_of_freedom, (threshold - self.delta) / spread))

    @property
    def two_sided_p_value(self) -> float:
        """The two-sided p-value of "the true difference is 0"; 1 without a standard error."""
        spread = self.standard_error
        if math.isnan(spread):
            return 1.0
        return float(2 * stdtr(self.degrees_of_freedom, -abs(self.delta) / spread))

    @property
    def smallest_effect(self) -> float:
        """The smallest difference that the two-sided 5 % test finds with 80 % power.

        NaN without a standard error, and if it is above 1 for scores in [0, 1].
        """
        degrees = self.degrees_of_freedom
        effect = float(stdtrit(degrees, 0.975) + stdtrit(degrees, 0.8)) * self.standard_error
        return math.nan if self.bounded and effect > 1 else effect

    @property
    def _shares(self) -> Floats:
        return np.asarray(self.sizes / self.sizes.sum(), dtype=np.float64)

    def _hidden(self, residuals: Floats) -> float:
        """Return by how much more a cluster may change than the sample shows.

        For scores in [0, 1]: by everything, weighted by the share of clusters that differ alike,
        such as not at all. For unbounded scores: by 1.5 times the largest deviation seen, weighted
        by how one-sided deviations are, |sum of cubes| over the sum of |cubes|, since a long tail
        is seldom seen in full. Both keep a coverage that t alone loses: `reports/calibration`.
        """
        if self.bounded:
            _, counts = np.unique(np.round(self.sums / self.sizes, 9), return_counts=True)
            return float(counts.max()) / self.sums.size
        largest = float(np.abs(residuals).max())
        cubes = (residuals / largest) ** 3
        one_sided = abs(float(cubes.sum())) / float(np.abs(cubes).sum())
        return 1.5 * largest / float(self.sizes.mean()) * one_sided


def as_scores(scores: ArrayLike, name: str) -> NDArray[Any]:
    """Check that scores are finite numbers, one per item.

    Args:
        scores: Shape (n,), n at least 1.
        name: The name of the scores in errors.

    Returns:
        The scores as an array, with their dtype unchanged.

    Raises:
        ValueError: If the shape is not (n,), or a value is no finite number.
    """
    array: NDArray[Any] = np.asarray(scores)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; give one score per item, shape (n,).")
    if array.size == 0:
        raise ValueError(f"{name} is empty; compare at least one item.")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array[0]!s} (dtype {array.dtype}); give numbers.")
    finite = np.isfinite(array)
    if not finite.all():
        raise ValueError(f"{name} holds {array[~finite][0]!s}; drop items without a score first.")
    return array


def cluster_codes(clusters: ArrayLike | None, n: int) -> NDArray[np.int64] | None:
    """Number the clusters, 0 to clusters - 1.

    Args:
        clusters: Shape (n,), a label per item, numbers or strings; None if items are independent.
        n: Number of items.

    Returns:
        Shape (n,); None if every item is a separate cluster.

    Raises:
        ValueError: If the shape is not (n,) or a label is missing (None or NaN).
    """
    if clusters is None:
        return None
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"clusters has shape {labels.shape}; give one label per item, ({n},).")
    missing = np.asarray(labels != labels)  # as NaN does
    if labels.dtype.kind == "O":
        missing = missing | np.array([label is None for label in labels])
        labels = labels.astype(str)
    if missing.any():
        raise ValueError(
            f"clusters lacks {int(missing.sum())} label(s); give an independent item a unique "
            "label."
        )
    unique, codes = np.unique(labels, return_inverse=True)
    return None if unique.size == n else codes.astype(np.int64)


def clustered_differences(
    score_a: NDArray[Any], score_b: NDArray[Any], codes: NDArray[np.int64] | None
) -> ClusteredDifferences:
    """Sum the differences of two score arrays, shape (n,), within clusters of `cluster_codes`."""
    a, b = score_a.astype(np.float64), score_b.astype(np.float64)
    difference = b - a
    if codes is None:
        sums, sizes = difference, np.ones(difference.size)
    else:
        sums = _summed(codes, difference)
        sizes = _summed(codes, np.ones(difference.size))
        # Losses and gains that cancel must not leave a rounding error that counts as a change.
        scale = _summed(codes, np.abs(difference))
        sums = np.where(np.abs(sums) <= _ROUNDING * scale, 0.0, sums)
    order = np.lexsort((sizes, sums))
    return ClusteredDifferences(
        sums=sums[order],
        sizes=sizes[order],
        bounded=bool(min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1),
    )


def _summed(group: NDArray[np.int64], values: Floats) -> Floats:
    return np.asarray(np.bincount(group, weights=values), dtype=np.float64)


def fair_binomial(n: int) -> Floats:
    """Return the probabilities of Binomial(n, 1/2), shape (n + 1,).

    They are products of ratios of neighbours, from the middle outwards. scipy.stats has the same,
    but its import takes longer than a comparison.
    """
    middle = n // 2
    evens = 2.0 * np.arange(1, middle + 1)
    central = float(np.prod((evens - 1) / evens)) * (n / (n + 1) if n % 2 else 1.0)
    steps = np.arange(n - middle, n)
    upper = central * np.cumprod(np.append(1.0, (n - steps) / (steps + 1)))
    return np.concatenate((upper[::-1], upper[1 - n % 2 :]))
