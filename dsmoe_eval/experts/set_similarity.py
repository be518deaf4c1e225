"""Whether chosen experts are more, or less, alike than the other experts of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..steering import ChosenExpert
from .similarity import KERNELS, ExpertSimilarity, Kernel, Matrix

DRAWS = 10_000
_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Contrast:
    """Mean CKA over some pairs, beside the same of random expert sets.

    Attributes:
        pairs: how many.
        mean: CKA.
        null_mean: of the random sets.
        null_low: 2.5 % of the random sets are below.
        null_high: 2.5 % of them are above.
        p_value: two-sided, of the permutation test; not adjusted for the number of tests.
    """

    pairs: int
    mean: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class SetSimilarity:
    """One kernel's figures, pooled over the pairs of each layer that has a chosen expert.

    Attributes:
        within: pairs of two chosen experts of a layer; None where no layer has two.
        across: pairs of a chosen and another expert of its layer.
        others: mean CKA of pairs of two other experts; None where there is none.
    """

    within: Contrast | None
    across: Contrast | None
    others: float | None

    def to_dict(self) -> dict[str, Any]:
        """For `similarity.json`."""
        return asdict(self)


def set_similarity(
    found: ExpertSimilarity, chosen: Sequence[ChosenExpert], draws: int = DRAWS, seed: int = 0
) -> dict[Kernel, SetSimilarity]:
    """Compare chosen experts with random sets that have as many experts in each layer.

    Args:
        found: of the model whose experts were chosen.
        chosen: the set; their order and scores do not matter.
        draws: random sets; the p-value is 1 / (draws + 1) or more.
        seed: of the draws.

    Raises:
        ValueError: nothing is chosen, or an expert is not in the model.
    """
    layers = {layer.layer: layer for layer in found.layers}
    members: dict[int, list[int]] = {}
    for one in chosen:
        members.setdefault(one.layer, []).append(one.expert)
        if one.layer not in layers or one.expert >= found.experts:
            raise ValueError(f"layer {one.layer} has no expert {one.expert} in this model")
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
    """CKA summed over pairs inside, across and outside of each set, [3, sets]."""
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
