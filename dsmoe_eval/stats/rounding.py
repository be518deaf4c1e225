"""Rounding is not a difference: scores that are equal but for their last digits are made equal."""

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9
"""The largest relative difference of two scores that counts as none, as sums of the same parts in
another order have it."""

_Floats = NDArray[np.float64]


def without_rounding(a: _Floats, b: _Floats) -> tuple[_Floats, _Floats]:
    """Return two systems' scores without differences by rounding.

    Scores that differ by at most `ROUNDING`, relative to the larger one or to 1/1000 of the largest
    score of all (to 1/1000 if that is above 1), are made equal, and scores as near to 0 or 1 are
    made 0 or 1.

    Args:
        a: Shape (n,), n at least 1, finite.
        b: Shape (n,).

    Returns:
        Both, shape (n,).
    """
    largest = max(float(np.abs(a).max()), float(np.abs(b).max()))

    def close(x: _Floats, y: _Floats | float) -> NDArray[np.bool_]:
        # Parts that cancel leave a rest which only the size of other scores tells from a score.
        size = np.maximum(np.maximum(np.abs(x), np.abs(y)), min(largest, 1.0) / 1000)
        return np.asarray(np.abs(x - y) <= ROUNDING * size)

    for whole in (0.0, 1.0):
        a, b = np.where(close(a, whole), whole, a), np.where(close(b, whole), whole, b)
    return a, np.where(close(a, b), a, b)
