"""Losses of training that make a layer's experts less alike, and the pairs that they look at.

The published ones are those of SimSMoE (Do, Le and Tran 2025, arXiv 2406.15883): a load-balancing
loss, and the centred kernel alignment (CKA) of two experts' outputs on tokens that select both. Its
biased RBF kernel of fixed width calls unrelated outputs alike, at 0.97 to 1.00; `debiased_cka` is 0
for them, however few the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .similarity import ALIKE, double_centred, u_centred

WIDTH = 0.8
"""The width of SimSMoE's RBF kernel."""
OFTEN = 16.0
"""SimSMoE's f: a pair is looked at once its counter is above it."""
MOST_PAIRS, FEWEST_SHARED = 4, 64
"""How many pairs of a layer the debiased loss looks at, and on how many tokens at least."""
_LEAST = 1e-12


def balance_loss(probabilities: Tensor, indices: Tensor) -> Tensor:
    """Compute E times the sum of f_i P_i: 1 for an even load, E if one expert has everything.

    f_i is the share of the selections that are expert i, P_i its mean probability (Shazeer et al.
    2017, Fedus et al. 2021).

    Args:
        probabilities: [tokens, experts], softmax of the router's logits.
        indices: [tokens, k], the selected experts.
    """
    experts = probabilities.shape[-1]
    counts = torch.bincount(indices.flatten(), minlength=experts)
    shares = counts.to(probabilities.dtype) / indices.numel()
    return experts * (shares * probabilities.mean(0)).sum()


def published_cka(first: Tensor, second: Tensor, width: float = WIDTH) -> Tensor:
    """Compute the biased CKA of SimSMoE, with kernel exp(-|x - y|^2 / (2 width^2)).

    Args:
        first: [n, d], one expert's outputs after the projection that all experts share.
        second: [n, d], another's, on the same tokens.
        width: the kernel's width.
    """
    one, other = (double_centred(_rbf(rows, width)) for rows in (first, second))
    return _cosine(one, other)


def debiased_cka(first: Tensor, second: Tensor) -> Tensor:
    """Compute the CKA of the linear kernel from HSIC_1 of Song et al. 2012: 0 if unrelated.

    Args:
        first: [n, d], one expert's outputs; n is 4 or more.
        second: [n, d], another's, on the same tokens.
    """
    one, other = (u_centred(_linear(rows)) for rows in (first, second))
    return _cosine(one, other)


def above(similarity: Tensor, threshold: float = ALIKE) -> Tensor:
    """Return the similarity above the threshold as SimSMoE counts it: whole, or 0."""
    return torch.where(similarity > threshold, similarity, torch.zeros_like(similarity))


def hinge(similarity: Tensor, threshold: float = ALIKE) -> Tensor:
    """Return by how much a similarity is above the threshold, else 0."""
    return torch.relu(similarity - threshold)


def _rbf(rows: Tensor, width: float) -> Tensor:
    norms = rows.square().sum(1)
    distances = (norms[:, None] + norms - 2 * rows @ rows.T).clamp(min=0)
    return torch.exp(-distances / (2 * width**2))


def _linear(rows: Tensor) -> Tensor:
    shifted = rows - rows.mean(0)
    return shifted @ shifted.T


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    cosine: Tensor = (one * other).sum() / (one.norm() * other.norm()).clamp(min=_LEAST)
    return cosine


@dataclass(frozen=True, slots=True)
class Pair:
    """Two experts of a layer, and the tokens that select both.

    Attributes:
        first: the lower index.
        second: the higher index.
        rows: [n], the indices of the tokens.
    """

    first: int
    second: int
    rows: Tensor


def co_selection(indices: Tensor, experts: int) -> Tensor:
    """Count the tokens that select both experts of each pair.

    Args:
        indices: [tokens, k], the selected experts; -1 for padding.
        experts: number of experts of the layer.

    Returns:
        [experts, experts] in float64, of i < j; 0 elsewhere.
    """
    chosen = nn.functional.one_hot(indices + 1, experts + 1).sum(1)[:, 1:].double()
    return (chosen.T @ chosen).triu(diagonal=1)


def most_shared(
    indices: Tensor, experts: int, most: int = MOST_PAIRS, fewest: int = FEWEST_SHARED
) -> tuple[Pair, ...]:
    """Return the pairs of experts that the most tokens select together.

    Args:
        indices: [tokens, k], the selected experts.
        experts: number of experts of the layer.
        most: the most pairs.
        fewest: the fewest tokens of a pair.
    """
    together = co_selection(indices, experts)
    counts, places = together.flatten().topk(min(most, together.numel()))
    found = zip(counts.tolist(), places.tolist(), strict=True)
    return tuple(_pair(indices, place, experts) for count, place in found if count >= fewest)


def _pair(indices: Tensor, place: int, experts: int) -> Pair:
    first, second = divmod(place, experts)
    both = (indices == first).any(1) & (indices == second).any(1)
    return Pair(first, second, both.nonzero().flatten())


class PairCounters(nn.Module):
    """SimSMoE's counters of a layer: which pairs of experts are looked at in a batch.

    Args:
        experts: number of experts of the layer.
        often: a pair is looked at once its counter is above this.
    """

    counts: Tensor
    """[experts, experts] in float64: the shares of batches' tokens that selected both, added up
    since the pair was last looked at."""

    def __init__(self, experts: int, often: float = OFTEN) -> None:
        super().__init__()
        self.experts, self.often = experts, often
        self.register_buffer("counts", torch.zeros(experts, experts, dtype=torch.float64))

    def due(self, indices: Tensor, fewest: int = 2) -> tuple[Pair, ...]:
        """Count a batch, and return the pairs that are due in it; their counters begin anew.

        Args:
            indices: [tokens, k], the selected experts of the batch; -1 for padding.
            fewest: a pair with fewer tokens in this batch waits for the next.
        """
        together = co_selection(indices, self.experts)
        self.counts += together / (indices[:, 0] >= 0).sum()
        due = (self.counts > self.often) & (together >= fewest)
        self.counts[due] = 0
        places = due.flatten().nonzero().flatten().tolist()
        return tuple(_pair(indices, place, self.experts) for place in places)
