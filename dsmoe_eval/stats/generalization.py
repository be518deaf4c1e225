"""What steering gained on its target and what it cost elsewhere: metrics of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .paired import PairedResult, as_pairs, compare_paired


@dataclass(frozen=True, slots=True)
class NonTargetChange:
    """Change over the domains that were not steered for.

    Attributes:
        pooled: Mean change of all items, so each domain weighs by its items.
        macro: Mean of the domains' changes.
        worst: The lowest change of a domain. The lowest of several is below 0 by chance alone:
            test the domains by `regressions` before saying that one lost.
        worst_domain: Its name.
    """

    pooled: float
    macro: float
    worst: float
    worst_domain: str


def target_gain(base: ArrayLike, steered: ArrayLike) -> float:
    """Mean score steered minus base on the target's items, shape (n,) each."""
    a, b, _ = as_pairs(base, steered)
    return float(b.mean(dtype=np.float64) - a.mean(dtype=np.float64))


def non_target_change(domains: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> NonTargetChange:
    """Change on the non-target domains.

    Args:
        domains: For each domain the scores of base and steered, shape (its items,) each.

    Returns:
        The change.

    Raises:
        ValueError: If there is no domain, or scores are not as `compare_paired` wants them.
    """
    if not domains:
        raise ValueError("there is no non-target domain; give at least one.")
    changes = {name: target_gain(*scores) for name, scores in domains.items()}
    sizes = [np.size(base) for base, _ in domains.values()]
    worst = min(changes, key=lambda name: changes[name])
    values = list(changes.values())
    return NonTargetChange(
        pooled=float(np.average(values, weights=sizes)),
        macro=float(np.mean(values)),
        worst=changes[worst],
        worst_domain=worst,
    )


def retention(base: ArrayLike, steered: ArrayLike) -> float:
    """Share of base's score that steering keeps: mean steered over mean base, shape (n,) each.

    1 is all, and more than 1 a rise; NaN where base scores 0. A guessing model keeps much of a
    low score, so read it beside the change in points.
    """
    a, b, _ = as_pairs(base, steered)
    before = float(a.mean(dtype=np.float64))
    return float(b.mean(dtype=np.float64)) / before if before else math.nan


def gain_over_control(
    control: ArrayLike, variant: ArrayLike, clusters: ArrayLike | None = None, seed: int = 0
) -> PairedResult:
    """Gain of a variant less the gain of its control, tested on the target's items.

    Base's score cancels, so this is variant against control. With a placebo (random experts, as
    strong) it is the gain that the choice of experts explains; with another domain's experts
    the specificity of the domain's own.

    Args:
        control: Shape (n,), scores of the control.
        variant: Shape (n,), scores of the variant on the same items.
        clusters: As `compare_paired`.
        seed: As `compare_paired`.

    Returns:
        The comparison; ``delta`` is the difference of gains.
    """
    return compare_paired(control, variant, clusters, seed)
