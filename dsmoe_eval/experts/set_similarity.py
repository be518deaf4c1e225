"""Compares the similarity of chosen experts with that of the other experts of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ..steering import ChosenExpert
from .similarity import KERNELS, ExpertSimilarity, Kernel, Matrix

DRAWS = 10_000
_TIE = 1e-9


class Contrast(TypedDict):
    """The mean CKA of some pairs of experts, and that of random expert sets.

    Attributes:
        pairs: number of pairs.
        mean: mean CKA.
        null_mean: mean CKA of the random sets.
        null_low: the 2.5 % quantile of the random sets.
        null_high: the 97.5 % quantile of the random sets.
        p_value: two-sided p-value of the permutation test, not adjusted for multiple tests.
    """

    pairs: int
    mean: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float


class SetSimilarity(TypedDict):
    """The figures of one kernel, pooled over the pairs of each layer that has a chosen expert.

    Attributes:
        within: pairs of two chosen experts of a layer; None if no layer has two.
        across: pairs of a chosen and another expert of its layer.
        others: mean CKA of pairs of two other experts; None if there is no such pair.
    """

    within: Contrast | None
    across: Contrast | None
    others: float | None


def set_similarity(
    similarity: ExpertSimilarity,
    chosen: Sequence[ChosenExpert],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[Kernel, SetSimilarity]:
    """Compare chosen experts with random sets that have as many experts in each layer.

    Args:
        similarity: the similarities in the model whose experts were chosen.
        chosen: the set; the order and the scores do not matter.
        draws: number of random sets; the p-value is at least 1 / (draws + 1).
        seed: seed of the draws.

    Raises:
        ValueError: no expert is chosen, or an expert is not in the model.
    """
    layers = {layer.layer: layer for layer in similarity.layers}
    members: dict[int, list[int]] = {}
    for expert in chosen:
        members.setdefault(expert.layer, []).append(expert.expert)
        if expert.layer not in layers or expert.expert >= similarity.experts:
            raise ValueError(f"layer {expert.layer} has no expert {expert.expert} in this model")
    if not members:
        raise ValueError("no expert is chosen")
    return {
        kernel: _compare(
            {layer: layers[layer].experts[kernel] for layer in members}, members, draws, seed
        )
        for kernel in KERNELS
    }


def _compare(
    matrices: Mapping[int, Matrix], members: Mapping[int, list[int]], draws: int, seed: int
) -> SetSimilarity:
    generator = np.random.default_rng(seed)
    sums, pairs = np.zeros((3, draws + 1)), np.zeros(3, dtype=int)
    for layer, chosen in members.items():
        size, count = len(matrices[layer]), len(chosen)
        ranks = generator.random((draws + 1, size)).argsort(1).argsort(1)
        sets = ranks < count
        sets[0] = np.isin(np.arange(size), chosen)  # the first is the chosen one
        sums += _sums(matrices[layer], sets)
        rest = size - count
        pairs += [count * (count - 1) // 2, count * rest, rest * (rest - 1) // 2]
    means = [total / number if number else None for total, number in zip(sums, pairs, strict=True)]
    within, across, others = means
    return SetSimilarity(
        within=_contrast(within, int(pairs[0])),
        across=_contrast(across, int(pairs[1])),
        others=None if others is None else float(others[0]),
    )


def _sums(matrix: Matrix, sets: NDArray[np.bool_]) -> Matrix:
    """Sum the CKA of the pairs inside, across and outside each set, [3, sets]."""
    hollow = matrix - np.diag(np.diag(matrix))
    inside, outside = sets.astype(float), (~sets).astype(float)
    return np.stack(
        [
            ((inside @ hollow) * inside).sum(1) / 2,
            ((inside @ hollow) * outside).sum(1),
            ((outside @ hollow) * outside).sum(1) / 2,
        ]
    )


def _contrast(means: Matrix | None, pairs: int) -> Contrast | None:
    if means is None:
        return None
    seen, null = float(means[0]), means[1:]
    tails = [(null <= seen + _TIE).sum(), (null >= seen - _TIE).sum()]
    low, high = np.quantile(null, [0.025, 0.975])
    return Contrast(
        pairs=pairs,
        mean=seen,
        null_mean=float(null.mean()),
        null_low=float(low),
        null_high=float(high),
        p_value=min(1.0, 2 * (1 + int(min(tails))) / (len(null) + 1)),
    )
