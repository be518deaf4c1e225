"""What a training adds to its loss so that experts of a layer become less alike.

A forward pass is watched, and single experts are run again on its tokens: their weights get a
gradient, their inputs and the router do not.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..steering import Router
from .outputs import Given, call_roles, given_to, run_pairs
from .similarity import ALIKE
from .similarity_losses import (
    OFTEN,
    Pair,
    PairCounters,
    above,
    debiased_cka,
    hinge,
    most_shared,
    published_cka,
)


@dataclass(slots=True)
class WatchedExperts:
    """The last call of every layer's experts.

    Attributes:
        routers: the routers of the layers.
        calls: layer -> the arguments of the call.
        valid: [tokens], the tokens that are no padding; None: all are.
    """

    routers: Sequence[Router]
    calls: dict[int, Given] = field(default_factory=dict)
    valid: Tensor | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the model's calls inside the context."""

        def see(layer: int, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self.calls[layer] = given_to(args, kwargs)

        handles = [
            one.consumer.register_forward_pre_hook(partial(see, one.layer), with_kwargs=True)
            for one in self.routers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def inputs(self, router: Router) -> Tensor:
        """Return the hidden states that the experts were given, [tokens, hidden size]."""
        given = self.calls[router.layer]
        hidden: Tensor = given[call_roles(router, given)[0]]
        return hidden

    def selected(self, router: Router) -> Tensor:
        """Return the selected experts, [tokens, k]; -1 for padding."""
        given = self.calls[router.layer]
        indices: Tensor = given[call_roles(router, given)[1]].detach()
        if self.valid is None:
            return indices
        return torch.where(self.valid[:, None], indices, -torch.ones_like(indices))

    def outputs(self, router: Router, pair: Pair) -> tuple[Tensor, Tensor]:
        """Run both experts of a pair on its tokens, in one call; [tokens, hidden size] each."""
        given = self.calls[router.layer]
        roles = call_roles(router, given)
        frozen = {**given, roles[0]: given[roles[0]].detach()}
        count = len(pair.rows)
        experts = pair.rows.new_tensor([pair.first, pair.second]).repeat_interleave(count)
        both = run_pairs(router, frozen, roles, pair.rows.repeat(2), experts)
        return both[:count], both[count:]


@dataclass(frozen=True, slots=True)
class SimilarityStep:
    """The similarity loss of one step.

    Attributes:
        loss: a scalar.
        similarities: the similarity of each pair that was looked at.
    """

    loss: Tensor
    similarities: tuple[float, ...]


class SimilarityLoss(nn.Module):
    """A loss on the similarity of experts in one forward pass."""

    @abstractmethod
    def forward(self, watched: WatchedExperts) -> SimilarityStep:
        """Compute the loss of the watched forward pass."""


class PublishedLoss(SimilarityLoss):
    """SimSMoE's loss: the sum of the similarities above 0.5, over layers and due pairs.

    Outputs pass one trainable projection, from the hidden size to the number of experts, which all
    experts share.

    Args:
        routers: the routers of the layers.
        hidden: the hidden size.
        often: as for `PairCounters`.
    """

    def __init__(self, routers: Sequence[Router], hidden: int, often: float = OFTEN) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden, routers[0].experts)
        self.counters = nn.ModuleList(PairCounters(one.experts, often) for one in routers)

    def forward(self, watched: WatchedExperts) -> SimilarityStep:
        """Compute the loss; the counters go on."""
        found = []
        for router, counters in zip(watched.routers, self.counters, strict=True):
            assert isinstance(counters, PairCounters)  # noqa: S101 - tells mypy the module's class
            for pair in counters.due(watched.selected(router)):
                first, second = (
                    self.projection(one.float()) for one in watched.outputs(router, pair)
                )
                found.append(published_cka(first, second))
        # So that all parameters have a gradient in each step, also where no pair is due.
        zero = 0 * torch.stack([one.sum() for one in self.projection.parameters()]).sum()
        return _step(zero + sum(above(one) for one in found), found)


class DebiasedLoss(SimilarityLoss):
    """The mean, over the most co-selected pairs, of how far debiased similarity is above a threshold.

    Args:
        threshold: the threshold.
        shuffled: whether the second expert's tokens are in random order: the same computation on
            outputs that have nothing to do with each other.
        layers: the number of layers that are looked at in a step, drawn anew; None: all.
        seed: of these draws.
    """

    def __init__(
        self,
        threshold: float = ALIKE,
        shuffled: bool = False,
        layers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.threshold, self.shuffled, self.layers = threshold, shuffled, layers
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, watched: WatchedExperts) -> SimilarityStep:
        """Compute the loss: per layer the mean over its pairs, and the mean over layers."""
        found, parts = [], []
        for router in self._drawn(watched.routers):
            pairs = most_shared(watched.selected(router), router.experts)
            values = [self._similarity(*watched.outputs(router, pair)) for pair in pairs]
            if values:
                parts.append(hinge(torch.stack(values), self.threshold).mean())
            found += values
        zero = torch.zeros((), device=watched.inputs(watched.routers[0]).device)
        return _step(torch.stack(parts).mean() if parts else zero, found)

    def _drawn(self, routers: Sequence[Router]) -> list[Router]:
        if self.layers is None or self.layers >= len(routers):
            return list(routers)
        order = torch.randperm(len(routers), generator=self.generator)[: self.layers]
        return [routers[index] for index in sorted(order.tolist())]

    def _similarity(self, first: Tensor, second: Tensor) -> Tensor:
        if self.shuffled:
            order = torch.randperm(len(second), generator=self.generator)
            second = second[order.to(second.device)]
        return debiased_cka(first.float(), second.float())


def _step(loss: Tensor, found: Sequence[Tensor]) -> SimilarityStep:
    return SimilarityStep(loss, tuple(float(one.detach()) for one in found))
