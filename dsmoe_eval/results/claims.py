"""The p-values of each arm's comparisons, adjusted for their families.

Every family of tests (`schema.FAMILIES`) follows from the plan: which arms, controls and domains
there are, never the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..cards import Variant
from ..stats import NonInferiority, PairedResult, holm
from .outcomes import OVER


@dataclass(frozen=True, slots=True)
class Contrasts:
    """The comparisons of one arm.

    Attributes:
        target: the comparison with base, on the target.
        pooled: the comparison with base, on all non-targets.
        pooled_held: non-inferiority on all non-targets, at the plan's margin.
        domains: the comparisons with base, on each non-target task, in the order of the suite.
        held: non-inferiority on each non-target task.
        over: the comparisons with other arms on the target, by the names of `OVER`; None where the
            plan has no such arm.
    """

    variant: Variant
    target: PairedResult
    pooled: PairedResult
    pooled_held: NonInferiority
    domains: tuple[PairedResult, ...]
    held: tuple[NonInferiority, ...]
    over: Mapping[str, PairedResult | None]


@dataclass(frozen=True, slots=True)
class Adjusted:
    """The adjusted p-value of each comparison of an arm; None where nothing is claimed."""

    target: float | None
    pooled: float | None
    domains: tuple[float | None, ...]
    over: Mapping[str, float | None]


def adjust(arms: Sequence[Contrasts]) -> list[Adjusted]:
    """Return the adjusted p-values of every arm; null arms claim nothing, and are in no family.

    Controls are a separate family: more controls must not make an arm's claims harder.
    """
    variants = [arm.variant for arm in arms]

    def family(results: Sequence[PairedResult | None]) -> list[float | None]:
        return holm_by_family(variants, [None if one is None else one.p_value for one in results])

    target, pooled = family([arm.target for arm in arms]), family([arm.pooled for arm in arms])
    over = {name: family([arm.over[name] for arm in arms]) for name in OVER}
    return [
        Adjusted(
            target[place],
            pooled[place],
            tuple(_holm([None if arm.variant.zero_strength else one for one in arm.domains])),
            {name: found[place] for name, found in over.items()},
        )
        for place, arm in enumerate(arms)
    ]


def holm_by_family(
    variants: Sequence[Variant], p_values: Sequence[float | None]
) -> list[float | None]:
    """Return p-values adjusted within each `Variant.family`, in order; None without a claim."""
    found: list[float | None] = [None] * len(p_values)
    for family in ("arms", "controls"):
        claims = {
            place: p
            for place, (variant, p) in enumerate(zip(variants, p_values, strict=True))
            if variant.family == family and p is not None
        }
        for place, adjusted in zip(claims, holm([*claims.values()]), strict=True):
            found[place] = float(adjusted)
    return found


def _holm(results: Sequence[PairedResult | None]) -> list[float | None]:
    adjusted = iter(holm([result.p_value for result in results if result is not None]))
    return [None if result is None else float(next(adjusted)) for result in results]
