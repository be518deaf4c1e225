"""Who ran, and with which weight: the choice of one forward pass, and its check against a kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ProbeError
from .neurons import NeuronSite, neuron_factor
from .profile import Profile
from .sites import Site, neurons_of


@dataclass(frozen=True, slots=True)
class UnitChoice:
    """The units that the tokens of a pass selected.

    Attributes:
        selected: [tokens, layers, units], bool.
        weights: [tokens, layers, units]: of experts, 0 where not selected; the sizes of all
            neurons.
    """

    selected: Tensor
    weights: Tensor

    @classmethod
    def of_routing(cls, indices: Tensor, weights: Tensor, experts: int) -> UnitChoice:
        """Return the choice of experts from their indices and weights, [tokens, layers, k] each."""
        dense = torch.zeros(*indices.shape[:2], experts, device=weights.device)
        return cls(
            dense.bool().scatter(-1, indices, torch.ones_like(indices, dtype=torch.bool)),
            dense.scatter(-1, indices, weights),
        )

    @classmethod
    def of_sizes(cls, sizes: Tensor, top_k: int) -> UnitChoice:
        """Return the choice of neurons from all their sizes, [tokens, layers, units]."""
        best = sizes.topk(top_k).indices
        return cls(torch.zeros_like(sizes, dtype=torch.bool).scatter(-1, best, True), sizes)


def check_kind(
    sites: Sequence[Site], profile: Profile, base: UnitChoice, steered: UnitChoice
) -> None:
    """Check the definition of the intervention's kind against the recorded choice.

    A comparison with the unsteered choice is made in the first steered layer only, because later
    layers receive other hidden states.

    Raises:
        ProbeError: the intervention did something else.
    """
    if neurons := neurons_of(sites):
        if profile.experts:
            _check_scaled(neurons, profile, base, steered)
    else:
        _check_routed(profile, base, steered)


def _check_scaled(
    sites: Sequence[NeuronSite], profile: Profile, base: UnitChoice, steered: UnitChoice
) -> None:
    layer = min(profile.by_layer())
    column, site = next((at, one) for at, one in enumerate(sites) if one.layer == layer)
    factor = neuron_factor(profile.intervention, profile.by_layer()[layer], site)[:: site.block]
    factor = factor.to(base.weights.device)
    before, after = base.weights[:, column], steered.weights[:, column]
    if not torch.equal(before[:, factor == 1], after[:, factor == 1]):
        raise ProbeError(f"layer {layer}: neurons changed that were not chosen")
    if not torch.allclose(before * factor, after, rtol=2e-2, atol=1e-6):
        raise ProbeError(f"layer {layer}: the chosen neurons were not multiplied as the kind says")


def _check_routed(profile: Profile, base: UnitChoice, steered: UnitChoice) -> None:
    columns = {layer: column for column, layer in enumerate(profile.model.layers)}
    kind = profile.intervention.kind
    for chosen in profile.experts:
        used = steered.selected[:, columns[chosen.layer], chosen.expert]
        if kind == "mask" or not chosen.activate:
            if bool(used.any()):
                raise ProbeError(f"{kind}: expert {chosen.expert} of layer {chosen.layer} is used")
        elif kind == "force" and not bool(used.all()):
            raise ProbeError(f"force: expert {chosen.expert} of layer {chosen.layer} is not used")
    if kind not in ("reweight", "amplify"):
        return
    first = columns[min(profile.by_layer())]
    if not torch.equal(base.selected[:, first], steered.selected[:, first]):
        raise ProbeError(f"{kind} changed the selection of experts, which it must not")
    before, after = base.weights[:, first].sum(-1), steered.weights[:, first].sum(-1)
    if kind == "reweight" and not torch.allclose(before, after, rtol=1e-2, atol=1e-3):
        raise ProbeError("reweight changed the sum of a token's weights, which it must not")
