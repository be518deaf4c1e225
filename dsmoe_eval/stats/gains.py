"""The gains of a change in two situations, such as of steering on two models, on the same items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from .paired import PairedResult, as_pairs, compare_paired


def compare_gains(
    base_a: ArrayLike,
    arm_a: ArrayLike,
    base_b: ArrayLike,
    arm_b: ArrayLike,
    clusters: ArrayLike | None = None,
) -> PairedResult:
    """Compare the gain in situation B, ``arm_b - base_b``, with that in A, item by item.

    Where base scores the same in both situations it cancels, and the arms are compared by
    `compare_paired`. Otherwise the gains are, as graded scores; those of scores in [0, 1] are
    moved from [-1, 1] to [0, 1] for it, where the interval knows its bounds.

    Args:
        base_a: Shape (n,), finite; base's score of each item in situation A, more is better.
        arm_a: The same for the changed system.
        base_b: Base's in situation B.
        arm_b: The changed system's in situation B.
        clusters: Shape (n,), a label per item; items that may depend on each other share one.

    Returns:
        The comparison; its scores are the mean gains, and ``delta`` is the gain in B less that in
        A. ``gained`` items gain more in B.

    Raises:
        ValueError: As `compare_paired`.
    """
    base_a, arm_a, _ = as_pairs(base_a, arm_a)
    base_b, arm_b, _ = as_pairs(base_b, arm_b)
    first, second, _ = as_pairs(base_a, base_b)
    if bool((first == second).all()):
        level = float(first.mean(dtype=np.float64))
        found = compare_paired(arm_a, arm_b, clusters)
        return replace(found, score_a=found.score_a - level, score_b=found.score_b - level)
    gain_a, gain_b = (
        np.subtract(arm, base, dtype=np.float64) for base, arm in ((base_a, arm_a), (base_b, arm_b))
    )
    if not all(side.min() >= 0 and side.max() <= 1 for side in (base_a, arm_a, base_b, arm_b)):
        return compare_paired(gain_a, gain_b, clusters)
    found = compare_paired((gain_a + 1) / 2, (gain_b + 1) / 2, clusters)
    low, high = found.ci95
    return replace(
        found,
        score_a=2 * found.score_a - 1,
        score_b=2 * found.score_b - 1,
        delta=2 * found.delta,
        ci95=(2 * low, 2 * high),
        mde80=2 * found.mde80,
    )
