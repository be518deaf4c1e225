"""Fold a profile into a model's weights, exactly, where a parameter can carry it.

- A router with a bias over its logits (gpt-oss) carries `bias`: b' = b + shift.
- A router that chooses by score + correction bias carries `bias` in the score channel the same way.
- The down projection of a dense FFN carries a factor of its neurons: column j becomes factor x d_j.
- A router fed by a LayerNorm with weight g and bias b (Phi): the output x of a LayerNorm obeys
  sum_i x_i / g_i = sum_i b_i / g_i = c for every token, since the normalised input sums to zero.
  So W' = W + shift (1 / g)^T / c gives W' x = W x + shift.

Everything else would be an approximation and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import SteeringError
from .interventions import LayerEffect, layer_effect
from .neurons import NeuronSite, neuron_factor
from .profile import ChosenExpert, Intervention, Profile
from .routers import Router
from .sites import find_sites

_ELSEWHERE = "steer it at run time instead, with `steer` in transformers or with the vLLM engine"
_LEAST_CONSTANT = 1e-3
"""The least |c| as a share of the sum of its terms' sizes; below it the fold magnifies rounding."""


def fold(model: nn.Module, profile: Profile) -> dict[str, Tensor]:
    """Compute new values of the parameters that carry `profile`, by their name in the model.

    The model is not changed. Values are computed in float64 and returned in the parameter's dtype.

    Raises:
        SteeringError: the intervention or the architecture does not allow an exact fold.
    """
    if profile.vectors:
        raise SteeringError(
            "residual adds a vector after a decoder layer, for which a checkpoint of this "
            f"architecture has no parameter; {_ELSEWHERE}"
        )
    if profile.intervention.kind != "bias" and profile.sites.kind == "experts":
        raise SteeringError(
            f"{profile.intervention.kind} depends on each token's choice and cannot be folded into "
            f"weights; {_ELSEWHERE}"
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    names |= {id(buffer): name for name, buffer in model.named_buffers()}
    chosen, folded = profile.by_layer(), {}
    for router in find_sites(model, profile.sites):
        if router.layer not in chosen:
            continue
        experts = chosen[router.layer]
        if isinstance(router, NeuronSite):
            carrier, value = router.weight, _scaled(router, profile.intervention, experts)
        else:
            effect = layer_effect(profile.intervention, experts, router.experts, router.device)
            carrier, value = _carry(model, router, effect)
        folded[names[id(carrier)]] = value.to(carrier.dtype)
    return folded


def _scaled(site: NeuronSite, intervention: Intervention, chosen: Sequence[ChosenExpert]) -> Tensor:
    """Return the down projection with the columns of the chosen neurons multiplied, in float64."""
    factor = neuron_factor(intervention, chosen, site).double().to(site.weight.device)
    weight = site.weight.detach().double()
    return weight * (factor if isinstance(site.module, nn.Linear) else factor.unsqueeze(1))


def _carry(model: nn.Module, router: Router, effect: LayerEffect) -> tuple[Tensor, Tensor]:
    """Return the parameter of one router that carries the effect, and its new value in float64."""
    if effect.choice_shift is not None:
        bias = router.correction_bias
        if bias is None:
            raise SteeringError(f"router {router.name!r} has no correction bias; {_ELSEWHERE}")
        return bias, bias.detach().double() + effect.choice_shift.double().view_as(bias)
    assert effect.logit_shift is not None  # noqa: S101 - bias has one of the two
    shift = effect.logit_shift.double()
    logit_bias = getattr(router.module, "bias", None)
    if isinstance(logit_bias, Tensor) and logit_bias.shape == (router.experts,):
        return logit_bias, logit_bias.detach().double() + shift
    return router.weight, _fold_into_linear(router, _norm_before(model, router), shift)


def _norm_before(model: nn.Module, router: Router) -> nn.LayerNorm:
    """Return the LayerNorm with a bias that feeds the router's block."""
    block = router.name.rpartition(".")[0]
    norm = getattr(model.get_submodule(block.rpartition(".")[0]), "post_attention_layernorm", None)
    if not isinstance(norm, nn.LayerNorm) or norm.bias is None:
        raise SteeringError(
            f"router {router.name!r} has neither a bias nor a LayerNorm with a bias before it, "
            f"so nothing in this architecture can carry a logit shift exactly; {_ELSEWHERE}"
        )
    return norm


def _fold_into_linear(router: Router, norm: nn.LayerNorm, shift: Tensor) -> Tensor:
    gain, bias = norm.weight.detach().double(), norm.bias.detach().double()
    terms = bias / gain
    constant = terms.sum()
    if not torch.isfinite(constant) or constant.abs() < _LEAST_CONSTANT * terms.abs().sum():
        raise SteeringError(
            f"layer {router.layer}: its LayerNorm's biases nearly cancel (c = {constant:.3g}), so "
            f"the fold would magnify rounding errors; {_ELSEWHERE}"
        )
    if not constant:
        raise SteeringError(f"layer {router.layer}: its LayerNorm's biases are zero; {_ELSEWHERE}")
    return router.weight.detach().double() + torch.outer(shift, 1 / gain) / constant
