"""The interventions as pure functions on tensors.

Notation: z router logits [tokens, experts], S = TopK(z), w the weights of S [tokens, k], E* the
chosen experts, alpha = 1 + strength.

- `reweight`, Eq. 11 of the DSMoE paper (arXiv 2604.05267): w_j *= alpha for j in E* and S, then the
  weights' former sum is restored. The selection does not change. Restoring the former sum, not 1,
  keeps routers that do not renormalise exact when E* is empty.
- `bias`, the paper's published code: z_j += log(1 + strength) for j in E*, before the top-k. The
  selection can change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .profile import Intervention


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """What one layer's router adds to its logits and multiplies its chosen weights by.

    `logit_shift` and `weight_factor` are float32 vectors of shape [experts], or None where the
    intervention leaves that step alone.
    """

    logit_shift: Tensor | None
    weight_factor: Tensor | None


def layer_effect(
    intervention: Intervention, chosen: tuple[int, ...], experts: int, device: torch.device
) -> LayerEffect:
    """Turn an intervention on the `chosen` experts of one layer into its two vectors."""
    alpha = 1.0 + intervention.strength
    index = torch.tensor(chosen, dtype=torch.long, device=device)
    if intervention.kind == "bias":
        shift = torch.zeros(experts, dtype=torch.float32, device=device)
        return LayerEffect(shift.index_fill(0, index, math.log(alpha)), None)
    factor = torch.ones(experts, dtype=torch.float32, device=device)
    return LayerEffect(None, factor.index_fill(0, index, alpha))


def shift_logits(logits: Tensor, shift: Tensor) -> Tensor:
    """`bias`: z + shift, added in float32 so that a bfloat16 router does not round the shift away.

    Args:
        logits: [tokens, experts], any float dtype.
        shift: [experts], float32.

    Returns:
        [tokens, experts] in the dtype of `logits`.
    """
    return (logits.float() + shift).to(logits.dtype)


def reweight(weights: Tensor, indices: Tensor, factor: Tensor) -> Tensor:
    """`reweight`: scale the weights of chosen experts and restore each token's former sum.

    Args:
        weights: [tokens, k], not negative.
        indices: [tokens, k], the selected experts.
        factor: [experts], float32, positive.

    Returns:
        [tokens, k] in the dtype of `weights`; with a factor of ones, the same bits.
    """
    before = weights.float()
    scaled = before * factor[indices]
    restored = scaled * (before.sum(-1, keepdim=True) / scaled.sum(-1, keepdim=True))
    return restored.to(weights.dtype)
