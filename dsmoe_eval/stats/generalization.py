"""Metrics of scores: the gain of steering on its target, and its cost on other domains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .paired import PairedResult, as_pairs, compare_paired


@dataclass(frozen=True, slots=True)
class NonTargetChange:
    """The change over the domains that were not steered for.

    Attributes:
        pooled: Mean change of all items, so that domains are weighted by their items.
        macro: Mean of the domains' changes.
        worst: The lowest change of a domain. The lowest of several is often below 0 by chance:
            test the domains by `regressions` before claiming a drop.
        worst_domain: The name of that domain.
    """

    pooled: float
    macro: float
    worst: float
    worst_domain: str


def target_gain(base: ArrayLike, steered: ArrayLike) -> float:
    """Compute the mean score of steered minus base on the target's items, shape (n,) each."""
    a, b, _ = as_pairs(base, steered)
    return float(b.mean(dtype=np.float64) - a.mean(dtype=np.float64))


def non_target_change(domains: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> NonTargetChange:
    """Compute the change on the non-target domains.

    Args:
        domains: For each domain the scores of base and steered, shape (items,) each.

    Returns:
        The change.

    Raises:
        ValueError: If there is no domain, or scores are not valid for `compare_paired`.
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
    """Compute the share of base's score that steering keeps: mean steered over mean base.

    Scores have shape (n,) each. 1 means that all is kept, more than 1 is a gain; NaN if base scores
    0. A model that guesses keeps much of a low score, so read it with the change in points.
    """
    a, b, _ = as_pairs(base, steered)
    before = float(a.mean(dtype=np.float64))
    return float(b.mean(dtype=np.float64)) / before if before else math.nan


def gain_over_control(
    control: ArrayLike, variant: ArrayLike, clusters: ArrayLike | None = None
) -> PairedResult:
    """Compare the gain of a variant with the gain of its control on the target's items.

    Base's score cancels, so this compares variant and control. With a placebo (random experts at
    the same strength) the difference is the gain that the choice of experts explains; with another
    domain's experts it is the specificity of the target's experts.

    Args:
        control: Shape (n,), scores of the control.
        variant: Shape (n,), scores of the variant on the same items.
        clusters: As in `compare_paired`.

    Returns:
        The comparison; ``delta`` is the difference of gains.
    """
    return compare_paired(control, variant, clusters)
