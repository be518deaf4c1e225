"""Losses of SimSMoE, with gradient: on the load, on the similarity of two experts' outputs.

And which pairs of experts are compared.
`published_cka` is that of SimSMoE (arXiv 2406.15883) with its defects: its HSIC is biased, and its
kernel's fixed width takes unrelated outputs for equal. `debiased_cka` is `similarity.cka` for
training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .similarity import FEWEST_ROWS, double_centred, u_centred

SIGMA = 0.8
"""The width of the published RBF kernel."""
ExpertPair = tuple[int, int]
"""Two experts of a layer, the smaller index first."""


def balance_loss(probabilities: Tensor, indices: Tensor) -> Tensor:
    """Compute E times the sum of f_i P_i: 1 for an even load, E if one expert has everything.

    f_i is the share of the selections that are expert i, P_i its mean probability (Fedus et al.
    2021, arXiv 2101.03961, Eq. 4).

    Args:
        probabilities: [tokens, experts], softmax of the router's logits.
        indices: [tokens, k], the selected experts.
    """
    experts = probabilities.shape[-1]
    counts = torch.bincount(indices.flatten(), minlength=experts)
    shares = counts.to(probabilities.dtype) / indices.numel()
    return experts * (shares * probabilities.mean(0)).sum()


def debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    """Compute the debiased CKA with the linear kernel; see `similarity.cka`.

    Args:
        x: [n, d], one row per observation; n is 4 or more.
        y: [n, e], the same observations.

    Returns:
        A scalar with gradient, -1 to 1; 0 where all rows of one are the same.

    Raises:
        ValueError: there are fewer rows.
    """
    if len(x) < FEWEST_ROWS:
        raise ValueError(f"debiased CKA needs {FEWEST_ROWS} rows, not {len(x)}")
    return _alignment(*(u_centred(_linear(rows)) for rows in (x, y)))


def published_cka(x: Tensor, y: Tensor, sigma: float = SIGMA) -> Tensor:
    """Compute SimSMoE's CKA: the biased HSIC, RBF kernel exp(-|a - b|^2 / (2 sigma^2)).

    Args:
        x: [n, d], one row per observation.
        y: [n, e], the same observations.
        sigma: the kernel's width.

    Returns:
        A scalar with gradient, 0 to 1; 0 where all rows of one are the same.
    """
    return _alignment(*(double_centred(_rbf(rows, sigma)) for rows in (x, y)))


def _linear(rows: Tensor) -> Tensor:
    shifted = rows - rows.mean(0)
    return shifted @ shifted.T


def _rbf(rows: Tensor, sigma: float) -> Tensor:
    gram = _linear(rows)
    squares = gram.diagonal()
    distances = (squares[:, None] + squares - 2 * gram).clamp(min=0)
    return torch.exp(-distances / (2 * sigma**2))


def _alignment(x: Tensor, y: Tensor) -> Tensor:
    """Compute the cosine of two centred Gram matrices; 0 where one is zero, with no gradient."""
    sizes = x.square().sum() * y.square().sum()
    known = sizes > torch.finfo(sizes.dtype).tiny
    cosine: Tensor = torch.where(known, (x * y).sum() / torch.where(known, sizes, 1).sqrt(), 0)
    return cosine


def co_selected(indices: Tensor, experts: int) -> Tensor:
    """Count the tokens for which each pair of experts is selected.

    Args:
        indices: [tokens, k], the selected experts.
        experts: number of experts of the layer.

    Returns:
        [experts, experts], float32; zero but for the upper triangle.
    """
    selected = torch.zeros(len(indices), experts, device=indices.device)
    selected.scatter_(1, indices.long(), 1.0)
    return (selected.T @ selected).triu(1)


def top_pairs(counts: Tensor, most: int, fewest: int) -> list[ExpertPair]:
    """Return the pairs with the largest counts; of equal ones those with smaller indices first.

    Args:
        counts: [experts, experts]; see `co_selected`.
        most: the largest number of pairs.
        fewest: the smallest count of a pair.
    """
    experts = len(counts)
    order = counts.flatten().sort(descending=True, stable=True).indices[:most].tolist()
    return [divmod(at, experts) for at in order if float(counts.flatten()[at]) >= fewest]


def shared_tokens(indices: Tensor, pair: ExpertPair) -> Tensor:
    """Return the indices of the tokens, of [tokens, k], for which both experts are selected."""
    first, second = ((indices == expert).any(1) for expert in pair)
    return (first & second).nonzero().squeeze(1)


class PairCounters:
    """SimSMoE's counters: a pair is compared when its share of tokens has added up to a bound.

    The published code counts top-2 sets of one layer; with a larger k each pair of a token's
    experts counts.
    """

    def __init__(self, experts: int, bound: float) -> None:
        self.bound = bound
        self.shares = torch.zeros(experts, experts)

    def due(self, indices: Tensor) -> Sequence[ExpertPair]:
        """Add a batch's shares; return the pairs above the bound, and reset their counters.

        Args:
            indices: [tokens, k], the selected experts.
        """
        counts = co_selected(indices, len(self.shares)).cpu()
        self.shares += counts / max(1, len(indices))
        pairs = [(i, j) for i, j in (self.shares > self.bound).nonzero().tolist()]
        for pair in pairs:
            self.shares[pair] = 0.0
        return pairs
