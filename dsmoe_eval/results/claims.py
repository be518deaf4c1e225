"""The p-values of each arm's comparisons, adjusted for their families.

Every family of tests (`schema.FAMILIES`) follows from the plan: which arms, controls and domains
there are, never the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cards import Variant
from ..stats import NonInferiority, PairedResult, holm


@dataclass(frozen=True, slots=True)
class Contrasts:
    """The comparisons of one arm.

    Attributes:
        target: the comparison with base, on the target.
        pooled: the comparison with base, on all non-targets.
        pooled_held: non-inferiority on all non-targets, at the plan's margin.
        domains: the comparisons with base, on each non-target task, in the order of the suite.
        held: non-inferiority on each non-target task.
        placebo: the comparison with its placebo on the target; None where the plan has none.
        wrong: the comparison with its wrong-domain control on the target; None where the
            plan has none.
        prompt: the comparison with the arm that names the domain in the prompt, on the target;
            None for that arm and for controls, and where the plan has none.
        general: the comparison with a profile learned on the answers of all targets, on the target;
            None for other arms than learned profiles, and where the plan has none.
        plain: the comparison of a training that adds a loss with the same training without it, on
            the target; None for other arms and controls, and where the plan has none.
        quantized: the comparison of an arm on a quantized model with that model, on the target.
    """

    variant: Variant
    target: PairedResult
    pooled: PairedResult
    pooled_held: NonInferiority
    domains: tuple[PairedResult, ...]
    held: tuple[NonInferiority, ...]
    placebo: PairedResult | None
    wrong: PairedResult | None
    prompt: PairedResult | None
    general: PairedResult | None = None
    plain: PairedResult | None = None
    quantized: PairedResult | None = None


@dataclass(frozen=True, slots=True)
class Adjusted:
    """The adjusted p-value of each comparison of an arm; None where nothing is claimed."""

    target: float | None
    pooled: float | None
    domains: tuple[float | None, ...]
    placebo: float | None
    wrong: float | None
    prompt: float | None
    general: float | None
    plain: float | None
    quantized: float | None


def adjust(arms: Sequence[Contrasts]) -> list[Adjusted]:
    """Return the adjusted p-values of every arm; null arms claim nothing, and are in no family.

    Controls are a separate family: more controls must not make an arm's claims harder.
    """
    variants = [arm.variant for arm in arms]

    def family(results: Sequence[PairedResult | None]) -> list[float | None]:
        return holm_by_family(variants, [None if one is None else one.p_value for one in results])

    return [
        Adjusted(target, pooled, tuple(_holm(domains)), *over)
        for target, pooled, domains, *over in zip(
            family([arm.target for arm in arms]),
            family([arm.pooled for arm in arms]),
            [[None if arm.variant.zero_strength else r for r in arm.domains] for arm in arms],
            family([arm.placebo for arm in arms]),
            family([arm.wrong for arm in arms]),
            family([arm.prompt for arm in arms]),
            family([arm.general for arm in arms]),
            family([arm.plain for arm in arms]),
            family([arm.quantized for arm in arms]),
            strict=True,
        )
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
