"""The losses on similar experts in pre-training, as modules whose state is saved and loaded.

They see the calls of the experts in a forward pass, and run single experts again on its tokens:
the experts' weights get a gradient, their inputs and the routers do not.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..experts.similarity_losses import (
    SIGMA,
    PairCounters,
    co_selected,
    debiased_cka,
    published_cka,
    shared_tokens,
    top_pairs,
)
from ..steering import Router
from ..variants.expert_penalties import FEWEST_TOKENS, PAIRS, THRESHOLD, ExpertCall

OFTEN = 1.0
"""The bound of the counters, of the authors' ablation (0.5 to 16). Their default, 16, is for 50,000
steps: in a training of some hundred hardly any pair of experts reaches it."""
FLOOR = 0.0
"""The threshold of the debiased similarities, which is their level for unrelated outputs."""


@dataclass(frozen=True, slots=True)
class SimilarityStep:
    """The similarity loss of one step.

    Attributes:
        loss: a scalar.
        similarities: the similarity of each pair of experts that was compared.
    """

    loss: Tensor
    similarities: tuple[float, ...]


class PairLoss(nn.Module):
    """A loss on the similarity of experts in one forward pass.

    Attributes:
        constants: the numbers in its definition, by which a training differs from another.
    """

    constants: Mapping[str, float]

    @abstractmethod
    def forward(self, calls: Sequence[ExpertCall]) -> SimilarityStep:
        """Compute the loss of the calls of all layers' experts."""


class PublishedLoss(PairLoss):
    """The loss of SimSMoE: the sum of the similarities above 0.5, over layers and due pairs.

    Outputs pass one trainable projection for each layer, to as many dimensions as it has experts.

    Args:
        routers: the routers of the layers.
        hidden: the hidden size.
        often: the bound of the counters.
    """

    shares: Tensor
    """[layers, experts, experts], the counters."""

    def __init__(self, routers: Sequence[Router], hidden: int, often: float = OFTEN) -> None:
        super().__init__()
        self.constants = {"often": often, "threshold": THRESHOLD, "width": SIGMA}
        self.projections = nn.ModuleList(nn.Linear(hidden, one.experts) for one in routers)
        experts = routers[0].experts
        self.register_buffer("shares", torch.zeros(len(routers), experts, experts))
        self._counters = [PairCounters(experts, often) for _ in routers]

    def forward(self, calls: Sequence[ExpertCall]) -> SimilarityStep:
        """Compute the loss; the counters go on."""
        # So that all parameters have a gradient in each step, also where no pair is due.
        loss = 0 * torch.stack([one.sum() for one in self.parameters()]).sum()
        found: list[float] = []
        layers = zip(calls, self._counters, self.shares, self.projections, strict=True)
        for call, counters, shares, project in layers:
            counters.shares = shares  # a view of the buffer, which is saved
            pairs = [(p, shared_tokens(call.indices, p)) for p in counters.due(call.indices)]
            for first, second in call.outputs(pairs, detached=True):
                similarity = published_cka(project(first), project(second))
                found.append(float(similarity.detach()))
                if found[-1] > THRESHOLD:
                    loss = loss + similarity
        return SimilarityStep(loss, tuple(found))


class DebiasedLoss(PairLoss):
    """The mean of the debiased similarities above zero of each layer's most co-selected pairs.

    Unrelated outputs have zero by this estimator; the threshold of 0.5 was chosen for the published
    one, and most pairs are below it after a few steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constants = {"pairs": PAIRS, "fewest_tokens": FEWEST_TOKENS, "threshold": FLOOR}

    def forward(self, calls: Sequence[ExpertCall]) -> SimilarityStep:
        """Compute the loss, the mean over all pairs that are compared."""
        found = []
        for call in calls:
            counts = co_selected(call.indices, call.router.experts)
            pairs = [
                (pair, shared_tokens(call.indices, pair))
                for pair in top_pairs(counts, PAIRS, FEWEST_TOKENS)
            ]
            found += [debiased_cka(*both) for both in call.outputs(pairs, detached=True)]
        none = calls[0].hidden.new_zeros(())
        loss = (torch.stack(found) - FLOOR).relu().mean() if found else none
        return SimilarityStep(loss, tuple(float(one.detach()) for one in found))
