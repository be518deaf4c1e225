"""How near random experts are to those that they replace, for the placebos of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..experts import MATCH_TOLERANCE, RoutingCounts, exposure, exposure_gaps
from ..steering import ChosenExpert
from ..variants import variant_experts
from .arms import PlannedArm


def matching_of(
    arm: PlannedArm,
    counts: RoutingCounts,
    experts: Sequence[ChosenExpert],
    size: int | None,
    seed: int,
) -> dict[str, object] | None:
    """Compare a placebo's experts with those that they replace; None for other arms.

    Args:
        arm: the arm.
        counts: the routing counts.
        experts: the arm's experts.
        size: the number of experts that its method chose; None: the method's default.
        seed: the seed of the draw.

    Returns:
        The fields of `results.terms.Matching`.
    """
    if arm.variant.expert_source != "random_matched" or not experts:
        return None
    of_method = arm.variant.model_copy(update={"expert_source": "method"})
    replaced = variant_experts(of_method, counts, arm.domain, size, seed)
    gaps, total = exposure_gaps(replaced, experts, exposure(counts), counts.layers)
    largest = float(gaps[np.abs(gaps).argmax()])
    return {
        "experts": len(gaps),
        "outside": int((np.abs(gaps) > MATCH_TOLERANCE).sum()),
        "largest": largest if math.isfinite(largest) else None,
        "total": total if math.isfinite(total) else None,
    }
