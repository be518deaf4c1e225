"""The interventions as pure functions on tensors.

Notation: z router logits [tokens, experts], S the top-k set, w the weights of S [tokens, k], E* the
chosen experts of the layer.

- `reweight`, Eq. 11 of the DSMoE paper (arXiv 2604.05267): w_j *= 1 + strength for j in E* and S,
  then the weights' former sum is restored. The selection does not change. Restoring the former sum
  instead of 1 leaves routers that do not renormalise unchanged to the bit where E* is empty.
- `amplify`, RICE (arXiv 2505.14681): w_j *= 1 + strength for j in E* and S; no sum is restored.
- `bias`, the DSMoE paper's published code: z_j += log(1 + strength) for j in E*, before the top-k.
  The selection can change. In units of sigma: z_j += strength * sigma, the spread of the layer's
  logits over experts, since the same log-odds move one model's choice and force another's. In the
  unit `scores`: z_j += strength * score of j, another shift for each expert. In the score
  channel, for routers that choose by score + correction
  bias: the correction bias of j in E* += strength, in units of the score. Only the choice changes.
- `force`, SteerMoE (arXiv 2509.09660): s = log_softmax(z); s_j = max s + strength for activated j,
  s_j = min s - strength for deactivated j. Computed on z itself: a router on which `force` is
  allowed ignores the constant that log_softmax subtracts, and so an empty E* changes no bit.
- `mask`, the suppression control: z_j = -inf for j in E*, and -inf on the correction bias where
  that takes part in the choice. Its strength is always 1.

Strength 0 changes nothing, for every kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .profile import ChosenExpert, Intervention


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """The edits of one layer; a step that is None is skipped.

    Attributes:
        logit_shift: [experts], float32; added to the logits; -inf masks.
        forced: [experts], float32; +1 activated, -1 deactivated, 0 unchanged.
        force_margin: distance of a forced logit above the largest or below the smallest logit.
        choice_shift: [experts], float32; added to the router's correction bias.
        weight_factor: [experts], float32; multiplies the weights of selected experts.
        keep_sum: whether each token's weights are rescaled to their former sum.
    """

    logit_shift: Tensor | None = None
    forced: Tensor | None = None
    force_margin: float = 0.0
    choice_shift: Tensor | None = None
    weight_factor: Tensor | None = None
    keep_sum: bool = False


def layer_effect(
    intervention: Intervention,
    chosen: Sequence[ChosenExpert],
    experts: int,
    device: torch.device | None = None,
) -> LayerEffect:
    """Turn an intervention on the `chosen` experts of one layer into vectors over all `experts`."""
    index = torch.tensor([expert.expert for expert in chosen], dtype=torch.long, device=device)
    strength, kind = intervention.strength, intervention.kind

    def vector(fill: float, value: float | Tensor) -> Tensor:
        values = torch.as_tensor(value, dtype=torch.float32, device=device).expand(len(index))
        whole = torch.full((experts,), fill, dtype=torch.float32, device=device)
        return whole.index_copy(0, index, values)

    if kind in ("reweight", "amplify"):
        return LayerEffect(weight_factor=vector(1, 1 + strength), keep_sum=kind == "reweight")
    if kind == "bias" and intervention.channel == "score":
        return LayerEffect(choice_shift=vector(0, strength))
    if kind == "bias":
        shifts = [logit_shift(intervention, one) for one in chosen]
        return LayerEffect(logit_shift=vector(0, torch.tensor(shifts, dtype=torch.float32)))
    if strength == 0:
        return LayerEffect(logit_shift=vector(0, 0))
    if kind == "force":
        sign = torch.tensor([1.0 if expert.activate else -1.0 for expert in chosen], device=device)
        return LayerEffect(forced=vector(0, sign), force_margin=strength)
    return LayerEffect(logit_shift=vector(0, -math.inf), choice_shift=vector(0, -math.inf))


def logit_shift(intervention: Intervention, chosen: ChosenExpert) -> float:
    """Return what `bias` adds to the logit of a chosen expert, in log-odds."""
    if intervention.unit == "odds":
        return math.log1p(intervention.strength)
    if intervention.unit == "scores":
        return intervention.strength * chosen.score
    return intervention.strength * dict(intervention.sigmas)[chosen.layer]


def edit_logits(logits: Tensor, effect: LayerEffect) -> Tensor:
    """Apply `bias`, `mask` or `force` to the logits.

    The shift is added in float32, so that bfloat16 logits do not lose it to rounding first. Routers
    have it in the bias of their linear layer instead, where that can be.

    Args:
        logits: [tokens, experts], any float dtype.
        effect: the edits of the layer.

    Returns:
        [tokens, experts] in the dtype of `logits`.
    """
    if effect.logit_shift is not None:
        return (logits.float() + effect.logit_shift).to(logits.dtype)
    if effect.forced is not None:
        return force_logits(logits, effect.forced, effect.force_margin)
    return logits


def force_logits(logits: Tensor, forced: Tensor, margin: float | Tensor) -> Tensor:
    """Apply `force`: put activated logits above the largest and deactivated below the smallest.

    The margin is at least one step of the logits' dtype, since rounding would turn less into a tie.

    Args:
        logits: [tokens, experts], any float dtype.
        forced: [experts]: +1 activated, -1 deactivated, 0 unchanged.
        margin: the distance, in units of a logit.
    """
    highest, lowest = logits.amax(-1, keepdim=True).float(), logits.amin(-1, keepdim=True).float()
    step = 2 * torch.finfo(logits.dtype).eps
    above = highest + (highest.abs() * step).clamp(min=margin)
    below = lowest - (lowest.abs() * step).clamp(min=margin)
    edited = torch.where(forced > 0, above, logits.float())
    return torch.where(forced < 0, below, edited).to(logits.dtype)


def edit_weights(weights: Tensor, indices: Tensor, effect: LayerEffect) -> Tensor:
    """Apply `reweight` or `amplify`: scale chosen experts' weights; restore the sum if `keep_sum`.

    Args:
        weights: [tokens, k], at least 0.
        indices: [tokens, k], the selected experts.
        effect: the edits of the layer.

    Returns:
        [tokens, k] in the dtype of `weights`; the same bits where every factor is 1.
    """
    if effect.weight_factor is None:
        return weights
    edit = reweighted if effect.keep_sum else amplified
    return edit(weights, indices, effect.weight_factor)


def amplified(weights: Tensor, indices: Tensor, factor: Tensor) -> Tensor:
    """Return weights, [tokens, k], multiplied by the `factor` [experts] of their experts."""
    return _as(weights * _taken(factor, indices), weights.dtype)


def amplified_in_memory(weights: Tensor, indices: Tensor, factor: Tensor) -> Tensor:
    """Return `amplified` weights, in the memory of `weights` where no gradient is computed.

    The same bits: the product is in float32 and rounded once. In 16 bits it saves an operation.
    """
    edit = amplified if weights.requires_grad else scale_chosen
    return edit(weights, indices, factor)


def reweighted(weights: Tensor, indices: Tensor, factor: Tensor) -> Tensor:
    """Return weights as `amplified` does, with the sum of each token's weights restored."""
    scaled = weights * _taken(factor, indices)  # at least in float32, the dtype of the factor
    former = weights.sum(-1, keepdim=True, dtype=scaled.dtype)
    return _as(scaled * (former / scaled.sum(-1, keepdim=True)), weights.dtype)


def reweighted_in_a_kernel(weights: Tensor, indices: Tensor, factor: Tensor) -> Tensor:
    """Compute `reweighted` where x / x may differ from 1 by rounding, as in compiled kernels."""
    scaled = weights * _taken(factor, indices)
    former = weights.sum(-1, keepdim=True, dtype=scaled.dtype)
    sums = scaled.sum(-1, keepdim=True)
    return _as(scaled * torch.where(sums == former, 1.0, former / sums), weights.dtype)


def scale_chosen(values: Tensor, indices: Tensor, factor: Tensor) -> Tensor:
    """Adjust values, [tokens, k], in memory, by the `factor` [experts] of their experts."""
    return values.mul_(_taken(factor, indices))


def add_to_chosen(values: Tensor, indices: Tensor, shift: Tensor) -> Tensor:
    """Add the `shift` [experts] of their experts to values, [tokens, k], in memory."""
    return values.add_(_taken(shift, indices))


def _taken(values: Tensor, indices: Tensor) -> Tensor:
    return values.take(_as(indices, torch.int64))


def _as(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert without a call where there is nothing to convert."""
    return values if values.dtype == dtype else values.to(dtype)
