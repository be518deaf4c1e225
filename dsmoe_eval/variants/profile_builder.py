"""The profile of a steered variant, built from routing counts or mean streams, and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..cards import Unit, Variant
from ..errors import UserError
from ..experts import (
    Method,
    RoutingCounts,
    StreamMeans,
    choose_experts,
    exposure,
    get_method,
    matched_experts,
    pruned_experts,
    randomly_pruned,
)
from ..steering import ChosenExpert, Intervention, ModelIdentity, Profile, Source, logit_shift


@dataclass(frozen=True, slots=True)
class Settings:
    """The result of tuning: the size of E* or the steered layers, and the strength (alpha - 1).

    Attributes:
        expert_count: the size of E*; 0 for `residual`.
        unit: of the strength.
        depths: of a setting in a plan's grid: the depths of `residual`, from 0 to 1.
        layers: the decoder layers that `residual` steers, once the model is known.
    """

    expert_count: int
    strength: float
    unit: Unit = "odds"
    depths: tuple[float, ...] = ()
    layers: tuple[int, ...] = ()

    def in_model(self, layers: int) -> Settings:
        """Return the settings with the layers that are nearest to the depths in a model."""
        if not self.depths:
            return self
        near = sorted({round(depth * (layers - 1)) for depth in self.depths})
        return Settings(self.expert_count, self.strength, layers=tuple(near))


def variant_experts(
    variant: Variant,
    counts: RoutingCounts,
    domain: str,
    size: int | None,
    seed: int,
    groups: int = 1,
) -> tuple[ChosenExpert, ...]:
    """Choose the experts E* of a variant; for `prune` those that it removes.

    Args:
        variant: a steered one, or one that trains experts.
        counts: routing counts over the identification text of all domains.
        domain: the experts' domain: the target, or another one for a wrong-domain control.
        size: how many experts; None: as many as the method's rule says; of no effect for `prune`.
        seed: the seed of the draw of random experts.
        groups: for `prune`: the number of groups from which the routers choose.

    Raises:
        ValueError: the method cannot name `size` experts, or as many cannot be kept.
    """
    method = get_method(variant.method or "")
    if variant.keep is not None:
        if variant.expert_source == "random_matched":
            return randomly_pruned(counts, variant.keep, seed, variant.draw, groups)
        return pruned_experts(method, counts, domain, variant.keep, groups)
    chosen = spared_experts(method, counts, domain, size, variant.intervention, seed)
    if variant.expert_source == "random_matched":
        shares = exposure(counts)
        return matched_experts(chosen, shares, counts.layers, seed, variant.draw, counts.spared)
    return chosen


def spared_experts(
    method: Method,
    counts: RoutingCounts,
    domain: str,
    size: int | None,
    kind: str | None,
    seed: int = 0,
) -> tuple[ChosenExpert, ...]:
    """Choose a method's best experts without those that would break the model: `counts.spared`.

    Args:
        method: the method.
        counts: routing counts, with the super experts that are spared.
        domain: the experts' domain.
        size: how many; None: as many as the method's rule says.
        kind: the kind of intervention, of which `mask` and `force` switch experts off.
        seed: as for `choose_experts`.

    Raises:
        ValueError: the method cannot name as many.
    """
    signed, masks = kind == "force", kind == "mask"
    chosen = choose_experts(method, counts, domain, size, signed=signed, seed=seed)
    if any(_is_spared(one, counts, masks) for one in chosen):
        size = size or len(chosen)
        more = size + len(counts.spared)
        chosen = choose_experts(method, counts, domain, more, signed=signed, seed=seed)
        chosen = tuple(one for one in chosen if not _is_spared(one, counts, masks))[:size]
    return chosen


def _is_spared(one: ChosenExpert, counts: RoutingCounts, masks: bool) -> bool:
    """Return whether a super expert would be switched off: masked, or forced out."""
    return (one.layer, one.expert) in counts.spared and (masks or not one.activate)


def build_profile(
    variant: Variant,
    model: ModelIdentity,
    experts: tuple[ChosenExpert, ...],
    strength: float,
    source: Source,
    sigmas: Mapping[int, float] | None = None,
) -> Profile:
    """Build the profile of a steered variant.

    With `sigmas`, those of every layer, the strength is in units of them. It is zero for
    `Variant.zero_strength`, and fixed for a mask.
    """
    if variant.intervention is None or variant.method is None:
        raise ValueError(f"variant {variant.name!r} is not steered")
    kind = "mask" if variant.intervention == "prune" else variant.intervention
    if kind == "mask":
        strength = 1.0
    return Profile(
        model=model,
        method=_described(variant, variant.method),
        experts=experts,
        intervention=Intervention(
            kind=kind,
            strength=0.0 if variant.zero_strength else strength,
            unit="odds" if sigmas is None else "sigma",
            sigmas=tuple((sigmas or {}).items()),
        ),
        source=source,
    )


def with_sigmas(intervention: Intervention, counts: RoutingCounts) -> Intervention:
    """Return the intervention with the sigmas of the layers, if its unit is sigma."""
    if intervention.unit == "odds":
        return intervention
    sigmas = tuple(sigmas_of(counts).items())
    return Intervention.model_validate(intervention.model_dump() | {"sigmas": sigmas})


def sigmas_of(counts: RoutingCounts) -> dict[int, float]:
    """Return the sigma of each layer, in whose units strengths are given.

    Raises:
        UserError: a layer's logits do not differ between experts.
    """
    sigmas = counts.sigmas()
    flat = [layer for layer, sigma in sigmas.items() if not sigma > 0]
    if flat:
        raise UserError(
            f"layer {flat[0]}: the router gives all experts the same logit, so that sigma is 0; "
            "give strengths as odds"
        )
    return sigmas


def shift_ranges(profile: Profile, sigmas: Mapping[int, float] | None) -> dict[str, object]:
    """Return the unit of a bias on logits, and the least and the most that it adds to a layer.

    Args:
        profile: any profile; nothing is returned for other interventions.
        sigmas: each layer's, if they are known.

    Returns:
        `unit`, `log_odds` and `sigmas`, the latter two as (least, most) of the steered layers.
    """
    intervention = profile.intervention
    if intervention.kind != "bias" or intervention.channel != "logit" or not profile.experts:
        return {}
    shifts = [(one.layer, logit_shift(intervention, one)) for one in profile.experts]
    ranges = {"log_odds": [shift for _, shift in shifts]}
    if sigmas is not None and all(sigmas[layer] > 0 for layer, _ in shifts):
        ranges["sigmas"] = [shift / sigmas[layer] for layer, shift in shifts]
    return {"unit": intervention.unit} | {n: (min(v), max(v)) for n, v in ranges.items()}


def variant_vectors(
    variant: Variant, means: StreamMeans, domain: str, layers: tuple[int, ...], seed: int
) -> dict[int, tuple[float, ...]]:
    """Return the vectors of a variant `residual` by layer, in float32.

    A random vector is a Gaussian one, scaled to the norm of the domain's vector of its layer.

    Args:
        variant: the variant.
        means: the mean streams of the identification text of all domains.
        domain: the vector's domain: the target, or another one for a wrong-domain control.
        layers: indices of decoder layers.
        seed: the seed of random vectors.

    Raises:
        ValueError: there is no text of that domain or of no other, or its mean is the others'.
    """
    vectors, difference = {}, means.difference(domain)
    for layer in layers:
        vector = difference[layer]
        if not vector.any():
            raise ValueError(f"after layer {layer} the mean stream of {domain!r} is the others'")
        if variant.expert_source == "random_matched":
            name = int.from_bytes(hashlib.sha256(domain.encode()).digest()[:8])
            drawn = np.random.default_rng([seed, variant.draw, name, layer])
            noise = drawn.standard_normal(vector.shape)
            vector = noise * (np.linalg.norm(vector) / np.linalg.norm(noise))
        vectors[layer] = tuple(vector.astype(np.float32).tolist())
    return vectors


def build_vector_profile(
    variant: Variant,
    model: ModelIdentity,
    vectors: dict[int, tuple[float, ...]],
    strength: float,
    source: Source,
) -> Profile:
    """Build the profile of a variant `residual`; the strength is zero for a sham."""
    strength = 0.0 if variant.zero_strength else strength
    return Profile(
        model=model,
        method=_described(variant, "mean-difference"),
        experts=(),
        intervention=Intervention(kind="residual", strength=strength),
        source=source,
        vectors=vectors,
    )


def build_learned_profile(
    variant: Variant, model: ModelIdentity, shift: Tensor, source: Source
) -> Profile:
    """Build the profile of learned shifts, [layers, experts] in log-odds; those of 0 are left out.

    The strength is 1, and zero for a sham.
    """
    experts = tuple(
        ChosenExpert(layer=model.layers[layer], expert=expert, score=float(shift[layer, expert]))
        for layer, expert in shift.nonzero().tolist()
    )
    strength = 0.0 if variant.zero_strength else 1.0
    return Profile(
        model=model,
        method=_described(variant, "learned"),
        experts=experts,
        intervention=Intervention(kind="bias", strength=strength, unit="scores"),
        source=source,
    )


def _described(variant: Variant, method: str) -> str:
    """Return the method with what a control takes instead of the target's experts or vector."""
    if variant.keep is not None:
        method += f", keep {variant.keep}"
    if variant.expert_source != "method":
        method += f", {variant.expert_source}"
    return method + (f", draw {variant.draw}" if variant.draw > 1 else "")
