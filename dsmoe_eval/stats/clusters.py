"""Paired differences that are not single binary items: summed per cluster, tested by sign flips.

A cluster is a group of items whose scores may depend on each other, such as questions on one
passage; it is never split. An item that belongs to no group is a cluster of one item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DRAWS = 9999
"""The number of random sign flips, and of resamples of the bootstrap."""
_MOST_ENUMERATED = 16
_MOST_FLIPPED = 20_000
_ROUNDING = 1e-9
_FINEST = 64
_WIDEST = 2**20
_LONGEST_PRODUCT = 2**25


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
    def largest(self) -> float:
        """The largest absolute mean difference of a cluster."""
        return float(np.abs(self.sums / self.sizes).max())

    @property
    def standard_error(self) -> float:
        """The standard error of `delta`, by linearisation over clusters; NaN for one cluster."""
        if self.sums.size < 2:
            return math.nan
        residuals = self.sums - self.delta * self.sizes
        inflation = self.sums.size / (self.sums.size - 1)
        return float(np.sqrt(inflation * (residuals**2).sum()) / self.sizes.sum())


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


def joined(
    differences: ClusteredDifferences, most: int, generator: np.random.Generator
) -> tuple[Floats, Floats, int]:
    """Join clusters at random into at most `most` groups, which costs hardly any power.

    Args:
        differences: The clusters.
        most: The largest number of groups; fewer clusters are not joined.
        generator: Random generator of the groups.

    Returns:
        Sums and sizes, shape (clusters,) each, and their direction: -1 if all signs were changed,
        so that B against A is resampled exactly like A against B; 0 if changing them makes no
        difference.
    """
    sums, sizes, direction = _oriented(differences)
    if sums.size <= most:
        return sums, sizes, direction
    group = generator.permutation(sums.size) % most
    return _summed(group, sums), _summed(group, sizes), direction


def _summed(group: NDArray[np.int64], values: Floats) -> Floats:
    return np.asarray(np.bincount(group, weights=values), dtype=np.float64)


def _oriented(differences: ClusteredDifferences) -> tuple[Floats, Floats, int]:
    rows = np.column_stack((differences.sums, differences.sizes))
    mirror = np.column_stack((-differences.sums, differences.sizes))
    mirror = mirror[np.lexsort((mirror[:, 1], mirror[:, 0]))]
    apart = np.argwhere(rows != mirror)
    if not apart.size:
        return rows[:, 0], rows[:, 1], 0
    mirrored = rows[tuple(apart[0])] < mirror[tuple(apart[0])]
    first = mirror if mirrored else rows
    return first[:, 0], first[:, 1], -1 if mirrored else 1


def sign_flip_p_value(differences: ClusteredDifferences, seed: int) -> tuple[float, str]:
    """Test "A and B are equally good" by permutation: swap A and B per cluster, two-sided.

    The p-value is the share of sign flips whose absolute sum is at least the observed one. Up to 16
    clusters with a difference are enumerated. Sums that are multiples of 1/d for a d up to 64, as
    with binary items and means of d samples, have an exact distribution, convolved from binomials.
    Otherwise 9,999 random flips give p = (1 + hits) / (1 + draws): Phipson and Smyth (2010),
    Statistical Applications in Genetics and Molecular Biology 9:39. The test keeps its level for
    any number of clusters if A and B are exchangeable within clusters. More than 20,000 clusters
    are first joined at random into that many groups, whose signs are flipped together.

    Args:
        differences: The clusters.
        seed: Seed of the random flips.

    Returns:
        The p-value (1.0 if no cluster differs) and the test's name.
    """
    sums = differences.sums[differences.sums != 0]
    if sums.size > _MOST_ENUMERATED:
        lattice = _on_lattice(np.abs(sums))
        if lattice is not None:
            observed = round(abs(float(sums.sum())) * lattice[1])
            return _lattice_p_value(lattice[0], observed), "sign-flip permutation, exact"
    generator = np.random.default_rng(seed)
    sums, _, _ = joined(differences, _MOST_FLIPPED, generator)
    sizes = np.sort(np.abs(sums[sums != 0]))
    bar = abs(float(sums.sum())) - _ROUNDING * float(sizes.sum())
    if sizes.size <= _MOST_ENUMERATED:
        flipped = np.zeros(1)
        for size in sizes:
            flipped = np.concatenate((flipped - size, flipped + size))
        return float((np.abs(flipped) >= bar).mean()), "sign-flip permutation, exact"
    hits = int((np.abs(_flipped_sums(sizes, generator)) >= bar).sum())
    return (1 + hits) / (1 + DRAWS), f"sign-flip permutation, {DRAWS:,} draws"


def _on_lattice(sizes: Floats) -> tuple[NDArray[np.int64], int] | None:
    """Return the sizes as multiples of 1/d, and the smallest such d; None if there is none."""
    for d in range(1, _FINEST + 1):
        multiples = np.rint(sizes * d)
        if multiples.sum() > _WIDEST:
            return None
        if (np.abs(multiples - sizes * d) <= _ROUNDING * multiples).all():
            return multiples.astype(np.int64), d
    return None


def _lattice_p_value(sizes: NDArray[np.int64], observed: int) -> float:
    """Compute P(|sum of signs times sizes| >= observed).

    The sum is 2 X - sum of sizes, where X adds, for each distinct size, size times a binomial.
    """
    law = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        steps = np.zeros(int(size * count) + 1)
        steps[:: int(size)] = fair_binomial(int(count))
        law = _convolved(law, steps)
    sums = 2 * np.arange(law.size) - int(sizes.sum())
    return min(1.0, float(law[np.abs(sums) >= observed].sum()))


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


def _convolved(a: Floats, b: Floats) -> Floats:
    if a.size * b.size <= _LONGEST_PRODUCT:  # unlike the FFT, this keeps relative errors small
        return np.convolve(a, b)
    length = a.size + b.size - 1
    product = np.fft.irfft(np.fft.rfft(a, length) * np.fft.rfft(b, length), length)
    return np.asarray(np.maximum(product, 0.0), dtype=np.float64)


def _flipped_sums(sizes: Floats, generator: np.random.Generator) -> Floats:
    """Compute sums with random signs, (draws,): eight clusters at a time, from a table of 256."""
    padded = np.concatenate((sizes, np.zeros(-sizes.size % 8)))
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1.0
    total = np.zeros(DRAWS)
    for eight in padded.reshape(-1, 8):
        picks = np.frombuffer(generator.bytes(DRAWS), dtype=np.uint8)
        total += (signs @ eight)[picks]
    return total
