"""The profile of a steered variant, built from routing counts and settings."""

from __future__ import annotations

from dataclasses import dataclass

from ..cards import Variant
from ..experts import RoutingCounts, choose_experts, exposure, get_method, matched_experts
from ..steering import ChosenExpert, Intervention, ModelIdentity, Profile, Source


@dataclass(frozen=True, slots=True)
class Settings:
    """The result of tuning: the size of E* and the strength (alpha - 1)."""

    expert_count: int
    strength: float


def variant_experts(
    variant: Variant, counts: RoutingCounts, domain: str, size: int, seed: int
) -> tuple[ChosenExpert, ...]:
    """Choose the experts E* of a variant.

    Args:
        variant: a steered one.
        counts: routing counts over the identification text of all domains.
        domain: the experts' domain: the target, or another one for a wrong-domain control.
        size: how many experts.
        seed: the seed of the draw of random experts.

    Raises:
        ValueError: the method cannot name `size` experts.
    """
    method = get_method(variant.method or "")
    signed = variant.intervention == "force"
    chosen = choose_experts(method, counts, domain, size, signed=signed, seed=seed)
    if variant.expert_source == "random_matched":
        return matched_experts(chosen, exposure(counts), counts.layers, seed, variant.draw)
    return chosen


def build_profile(
    variant: Variant,
    model: ModelIdentity,
    experts: tuple[ChosenExpert, ...],
    strength: float,
    source: Source,
) -> Profile:
    """Build the profile of a steered variant.

    The strength is zero for `Variant.zero_strength`, and fixed for a mask.
    """
    if variant.intervention is None or variant.method is None:
        raise ValueError(f"variant {variant.name!r} is not steered")
    method = variant.method
    if variant.expert_source != "method":
        method += f", {variant.expert_source}"
    if variant.draw > 1:
        method += f", draw {variant.draw}"
    if variant.intervention == "mask":
        strength = 1.0
    return Profile(
        model=model,
        method=method,
        experts=experts,
        intervention=Intervention(
            kind=variant.intervention, strength=0.0 if variant.zero_strength else strength
        ),
        source=source,
    )
