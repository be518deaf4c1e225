"""The overlap of two choices of units, and that of blind choices of the same sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

Sizes = tuple[int, int]
"""How many units of a layer a choice has of each of two kinds, such as activated and deactivated;
no unit is of both."""


def jaccard(a: AbstractSet[object], b: AbstractSet[object]) -> float:
    """Compute the Jaccard index of two sets: |A and B| / |A or B|.

    Raises:
        ValueError: If both sets are empty.
    """
    if not a and not b:
        raise ValueError("both sets are empty; give at least one unit.")
    return len(a & b) / len(a | b)


def expected_jaccard(a: Sequence[Sizes], b: Sequence[Sizes], units: int) -> float:
    """Compute the mean Jaccard index of two choices drawn blindly, layer by layer.

    Each choice has in each layer as many units of each kind as the sizes say, every such choice
    equally likely. A unit is shared if both choices have it, of the same kind. The distribution of
    the number of shared units is exact: hypergeometric in each layer, and summed over layers.

    Args:
        a: The sizes of the first choice, layer by layer.
        b: The sizes of the second choice in the same layers.
        units: The number of units in each layer.

    Raises:
        ValueError: If the layers differ, a layer has too few units, or nothing is chosen.
    """
    if len(a) != len(b) or any(min(s) < 0 or sum(s) > units for s in (*a, *b)):
        raise ValueError(f"sizes are {a} and {b}; give 0 to {units} units for the same layers.")
    total = sum(map(sum, a)) + sum(map(sum, b))
    if not total:
        raise ValueError("both choices are empty; give at least one unit.")
    shared = np.ones(1)
    for own, other in zip(a, b, strict=True):
        shared = np.convolve(shared, _shared_in_layer(own, other, units))
    counts = np.arange(shared.size)
    return float((shared * counts / (total - counts)).sum())


def _shared_in_layer(a: Sizes, b: Sizes, units: int) -> NDArray[np.float64]:
    """Compute the probability of each number of shared units of one layer, A being fixed.

    The units of B's first kind fall on x of A's first and y of A's second kind; B's second kind is
    drawn from the rest, which has y fewer of A's second kind.
    """
    (a_first, a_second), (b_first, b_second) = a, b
    chances = np.zeros(sum(a) + 1)
    rest = units - b_first
    for x in range(min(a_first, b_first) + 1):
        for y in range(min(a_second, b_first - x) + 1):
            others = math.comb(units - sum(a), b_first - x - y)
            ways = math.comb(a_first, x) * math.comb(a_second, y) * others
            left = a_second - y
            if not ways:
                continue
            for z in range(min(left, b_second) + 1):
                rows = math.comb(left, z) * math.comb(rest - left, b_second - z)
                whole = math.comb(units, b_first) * math.comb(rest, b_second)
                chances[x + z] += ways * rows / whole
    return chances
