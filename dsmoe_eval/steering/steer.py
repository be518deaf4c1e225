"""Steers a model by a profile, and restores the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn

from . import router_patch
from .errors import SteeringError
from .interventions import (
    LayerEffect,
    amplified,
    amplified_in_memory,
    edit_logits,
    force_logits,
    layer_effect,
)
from .kernels import one_kernel
from .meaning import check_meaning
from .neurons import NeuronSite, neuron_factor, scaled
from .profile import Profile
from .residual import add_after, check_vectors, decoder_layers, hidden_size, shifts
from .routers import Router
from .scoring import Scoring, describe_scoring, shifted_choice
from .selection import SelectionSite, find_selection, reweighting
from .sites import Site, find_sites, sites_hash
from .units import EXPERTS, Sites

_STEERED = "_dsmoe_steered"
"""The mark of a router that is steered by its bias, or whose model is by its residual stream."""
_TWICE = "the model is steered already; remove that steering first"
_Rules = tuple[dict[int, Scoring], dict[tuple[int, bool], SelectionSite | None]]


@dataclass(slots=True)
class Measured:
    """The rules of one model's routers, for all the profiles that steer it one after the other.

    They are measured again if the routers have other weights or another dtype.
    """

    _state: str = ""
    _rules: _Rules = field(default_factory=lambda: ({}, {}))

    def of(self, state: str) -> _Rules:
        """Return the rules by layer of routers in this state, to which new ones are added."""
        if state != self._state:
            self._state, self._rules = state, ({}, {})
        return self._rules


class Steering:
    """A profile on a model: a context manager, or `install()` and `remove()` by hand.

    A profile at strength zero is installed like any other, so that a sham run uses the same code.
    The model's routers are compared with the profile's at construction, and their scoring rules are
    measured at the first installation; a model that is changed afterwards needs a new `Steering`.

    Args:
        model: the model.
        profile: the profile, of this model.
        measured: what other steerings of this model measured; what this one measures is added.
    """

    def __init__(
        self, model: nn.Module, profile: Profile, measured: Measured | None = None
    ) -> None:
        self.profile = profile
        self.sites = find_sites(model, profile.sites)
        layers, weights = tuple(one.layer for one in self.sites), sites_hash(self.sites)
        check_fits(profile, layers, self.sites[0].experts, weights, profile.sites)
        self.layers = decoder_layers(model, self.sites) if profile.vectors else nn.ModuleList()
        if profile.vectors:
            check_vectors(profile, len(self.layers), hidden_size(model))
        state = f"{weights} {self.sites[0].weight.dtype}"
        self._scorings, self._places = (measured or Measured()).of(state)
        self._folds = True
        self._installed = ExitStack()

    def with_strength(self, strength: float) -> Steering:
        """Return a steering by the same profile at another strength; measured rules are reused."""
        changed = copy.copy(self)
        changed.profile, changed._installed = self.profile.with_strength(strength), ExitStack()
        return changed

    @property
    def rounds(self) -> bool:
        """Whether a shift of logits is rounded to 16 bits before it is added; known if installed.

        `in_float32` adds it unrounded.
        """
        shifts = self.profile.intervention
        measured = self._scorings.values()
        return (
            self._folds
            and not self.profile.is_null
            and (shifts.kind == "mask" or (shifts.kind, shifts.channel) == ("bias", "logit"))
            and any(scoring.logits_dtype in ("bfloat16", "float16") for scoring in measured)
        )

    def in_float32(self) -> Steering:
        """Return a steering that adds shifts to the logits in float32, by further operations."""
        changed = copy.copy(self)
        changed._folds, changed._installed = False, ExitStack()
        return changed

    def install(self) -> Steering:
        """Steer from the next forward pass on; on failure the model is unchanged.

        Raises:
            SteeringError: the model is already steered, a router cannot be steered, or the
                definition of the intervention does not apply to a router.
        """
        chosen = self.profile.by_layer()
        if any(_is_steered(site.module) for site in self.sites):
            raise SteeringError(_TWICE)
        with ExitStack() as stack:
            if self.profile.vectors:
                stack.enter_context(add_after(self.layers, shifts(self.profile)))
                _mark(self.sites[0].module, stack)
            for site in self.sites:
                if site.layer in chosen:
                    self._install(site, stack)
            self._installed = stack.pop_all()
        return self

    def remove(self) -> None:
        """Restore the model; without an installed profile this does nothing."""
        self._installed.close()

    def __enter__(self) -> Steering:
        return self.install()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _install(self, router: Site, stack: ExitStack) -> None:
        intervention, chosen = self.profile.intervention, self.profile.by_layer()[router.layer]
        if isinstance(router, NeuronSite):
            stack.enter_context(scaled(router, neuron_factor(intervention, chosen, router)))
            _mark(router.module, stack)
            return
        effect = layer_effect(intervention, chosen, router.experts, router.device)
        if router.native_only:
            _steer_native(router, effect, intervention.kind, stack)
            return
        if router.layer not in self._scorings:
            self._scorings[router.layer] = describe_scoring(router)
        scoring = self._scorings[router.layer]
        check_meaning(intervention, chosen, scoring, router.experts, router.top_k)
        router_patch.attach(router, self._edit(router, effect, scoring))
        stack.callback(router_patch.detach, router.module)
        if effect.choice_shift is not None and scoring.correction_bias:
            assert router.correction_bias is not None  # noqa: S101 - just measured
            stack.enter_context(shifted_choice(router.correction_bias, effect.choice_shift))

    def _edit(self, router: Router, effect: LayerEffect, scoring: Scoring) -> router_patch.Edit:
        if effect.logit_shift is not None:
            if self._folds and router_patch.can_shift(router):
                return router_patch.Edit(
                    shift=effect.logit_shift.to(getattr(torch, scoring.logits_dtype))
                )
            return router_patch.Edit(logits=lambda logits: edit_logits(logits, effect))
        if effect.forced is not None:
            forced = effect.forced
            margin = torch.tensor(effect.force_margin, device=forced.device)
            force = one_kernel(force_logits, router.device)
            return router_patch.Edit(logits=lambda logits: force(logits, forced, margin))
        if effect.weight_factor is None:
            return router_patch.Edit()
        if effect.keep_sum or not scoring.renormalised:
            key = router.layer, effect.keep_sum
            if key not in self._places:
                self._places[key] = find_selection(router, effect.keep_sum, scoring.renormalised)
            if (place := self._places[key]) is not None:
                return router_patch.Edit(selected=place.edit(effect.weight_factor))
        return router_patch.Edit(weights=_weight_edit(router, effect, effect.weight_factor))


def _weight_edit(
    router: Router, effect: LayerEffect, factor: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    # A router makes its weights anew in each call; whether a block does so is not known.
    amplify = amplified_in_memory if router.selects else amplified
    edit = reweighting(router.device) if effect.keep_sum else amplify
    return lambda weights, indices: edit(weights, indices, factor)


def _steer_native(router: Router, effect: LayerEffect, kind: str, stack: ExitStack) -> None:
    """Steer a router whose forward is never called by its bias, rounded once to its dtype."""
    bias = getattr(router.module, "bias", None)
    if effect.logit_shift is None or not isinstance(bias, torch.Tensor):
        raise SteeringError(
            f"{kind} is not possible here: {type(router.consumer).__name__} never calls the router "
            "and reads only its weight and bias. Use bias, or load the model dequantized"
        )
    stack.enter_context(shifted_choice(bias, effect.logit_shift))
    _mark(router.module, stack)


def _is_steered(router: nn.Module) -> bool:
    return router_patch.is_attached(router) or hasattr(router, _STEERED)


def _mark(router: nn.Module, stack: ExitStack) -> None:
    setattr(router, _STEERED, True)
    stack.callback(delattr, router, _STEERED)


def steer(model: nn.Module, profile: Profile) -> Steering:
    """Steer `model` by `profile` inside a `with` block.

    Example:
        >>> with steer(model, profile):  # doctest: +SKIP
        ...     model.generate(**inputs)

    Raises:
        SteeringError: the profile is for another model, or the model's routers cannot be steered.
    """
    return Steering(model, profile)


def check_fits(
    profile: Profile,
    layers: tuple[int, ...],
    experts: int,
    routers: str,
    sites: Sites = EXPERTS,
) -> None:
    """Check that a profile is for this model: its layers, its experts and its router weights.

    Args:
        profile: the profile of any model.
        layers: indices of this model's layers with experts.
        experts: number of experts in each of these layers.
        routers: this model's `router_hash`.
        sites: the units that can be steered here.

    Raises:
        SteeringError: they differ; the message says what differs.
    """
    if profile.sites != sites:
        raise SteeringError(
            f"profile {profile.id} steers {profile.sites.noun}, and this model has {sites.noun}; "
            f"identify {sites.noun} of this model instead"
        )
    if layers != profile.model.layers or experts != profile.model.experts:
        kind = "MoE layers" if profile.sites == EXPERTS else "layers"
        raise SteeringError(
            f"profile {profile.id} is for {profile.model.name!r} ({len(profile.model.layers)} "
            f"{kind} of {profile.model.experts} {profile.sites.noun}); this model has "
            f"{len(layers)} of {experts}. Identify the experts of this model instead"
        )
    if routers != profile.model.routers:
        raise SteeringError(
            f"profile {profile.id} is for {profile.model.name!r}; the routers of this model have "
            "the same shape but other weights. Identify the experts of this model instead"
        )
