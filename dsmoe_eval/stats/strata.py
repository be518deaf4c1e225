"""Comparisons over several domains, pooled and one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .multiplicity import holm
from .paired import PairedResult, as_pairs, compare_paired


@dataclass(frozen=True, slots=True)
class StrataResult:
    """The comparison of B with A over several strata, such as domains.

    Attributes:
        pooled: The comparison of all items, so that strata are weighted by their items.
        strata: The sorted names of the strata.
        results: The comparison of each stratum, in that order.
        p_adjusted: The strata's p-values, adjusted by Holm.
        conflicting: Whether B is significantly better in one stratum and significantly worse in
            another, by the adjusted p-values; the pooled effect then describes neither.
    """

    pooled: PairedResult
    strata: tuple[str, ...]
    results: tuple[PairedResult, ...]
    p_adjusted: tuple[float, ...]
    conflicting: bool


def compare_strata(
    score_a: ArrayLike,
    score_b: ArrayLike,
    strata: ArrayLike,
    clusters: ArrayLike | None = None,
    alpha: float = 0.05,
) -> StrataResult:
    """Compare B with A within strata and pooled over them.

    For binary items without clusters the pooled test depends only on the counts of gains and
    losses, and is the mid-p McNemar test of their sums. The pooled interval of other scores counts
    differences between strata as chance, so it is slightly too wide if strata differ.

    Args:
        score_a: Shape (n,), as in `compare_paired`.
        score_b: The same for B.
        strata: Shape (n,), a label per item.
        clusters: Shape (n,), a label per item; the same label in two strata is two clusters.
        alpha: Two-sided significance level of `StrataResult.conflicting`.

    Returns:
        The comparisons.

    Raises:
        ValueError: As in `compare_paired`, or if strata and scores differ in shape.
    """
    a, b, _ = as_pairs(score_a, score_b, clusters)
    labels = np.asarray(strata).astype(str)
    if labels.shape != a.shape:
        raise ValueError(f"strata has shape {labels.shape}; give one label per item, {a.shape}.")
    names, stratum = np.unique(labels, return_inverse=True)
    nested = None if clusters is None else _nested(stratum, clusters)

    def compared(mask: NDArray[np.bool_]) -> PairedResult:
        return compare_paired(a[mask], b[mask], None if nested is None else nested[mask])

    pooled = compared(np.ones(a.size, dtype=bool))
    results = [compared(stratum == index) for index in range(names.size)]
    adjusted = holm([result.p_value for result in results])
    signs = {
        math.copysign(1, result.delta)
        for result, p in zip(results, adjusted, strict=True)
        if p <= alpha
    }
    return StrataResult(
        pooled=pooled,
        strata=tuple(map(str, names)),
        results=tuple(results),
        p_adjusted=tuple(map(float, adjusted)),
        conflicting=len(signs) == 2,
    )


def _nested(stratum: NDArray[np.int64], clusters: ArrayLike) -> NDArray[np.int64]:
    labels = np.asarray(clusters)
    if labels.dtype.kind not in "iu":
        labels = labels.astype(str)
    _, cluster = np.unique(labels, return_inverse=True)
    return np.asarray(stratum * (int(cluster.max()) + 1) + cluster, dtype=np.int64)
