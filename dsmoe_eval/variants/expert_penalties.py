"""Losses on the similarity of experts' outputs that fine-tuning adds to its loss.

`HingePenalty` is that of `sft-lora-cka`: the mean over the most co-selected pairs of experts of
relu(debiased linear CKA - `THRESHOLD`). `PublishedPenalty` is that of SimSMoE (arXiv 2406.15883,
code at 3789f0c) without its loss of balance, whose routers are frozen here. Both add `WEIGHT` times
it. They run the experts once more, on tokens of the pass; the pass is the same without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..experts import check_outputs, record_tokens
from ..experts.outputs import Given, call_roles, given_to, run_pairs
from ..experts.similarity_losses import (
    ExpertPair,
    PairCounters,
    co_selected,
    debiased_cka,
    published_cka,
    shared_tokens,
    top_pairs,
)
from ..steering import Router, SteeringError, find_routers, hidden_size

WEIGHT = 0.01
"""The factor of the loss; the published code's effective one."""
THRESHOLD = 0.5
"""The CKA above which a pair of experts is alike; the published one."""
PAIRS, LAYERS = 4, 4
"""The most pairs of a layer, and the most layers, that are compared in a step."""
FEWEST_TOKENS, MOST_TOKENS = 64, 256
"""The tokens on which a pair is compared: a pair that shares fewer is not."""
BOUND = 0.5
"""The published counters' bound, the least of the authors' ablation.

Their default, 16, is above the number of steps of a short training times the share of any pair.
"""
_CHECKED = 4
PairRows = tuple[ExpertPair, Tensor]
"""A pair of experts, and the indices of the tokens on which it is compared."""


@dataclass(frozen=True, slots=True)
class PenaltyRecord:
    """What a loss on the similarity of experts came to in a training.

    Attributes:
        weight: the factor of the loss.
        threshold: the CKA above which a pair counts.
        pairs: number of pairs that were compared, over all steps.
        steps_above: number of steps with a pair above the threshold.
        first_cka: mean CKA of the pairs of the first step that compared any; None: no step did.
        last_cka: likewise of the last step.
        mean_loss: mean over the steps of what was added to the loss, with its factor.
    """

    weight: float
    threshold: float
    pairs: int
    steps_above: int
    first_cka: float | None
    last_cka: float | None
    mean_loss: float


@dataclass(frozen=True, slots=True)
class ExpertCall:
    """The call of a layer's experts in a pass, with gradient.

    Attributes:
        router: the router of the layer.
        module: the experts with their adapters.
        given: the arguments.
    """

    router: Router
    module: nn.Module
    given: Given

    @property
    def hidden(self) -> Tensor:
        """The hidden states that the experts are given, [tokens, hidden size]."""
        hidden: Tensor = self.given[call_roles(self.router, self.given)[0]]
        return hidden

    @property
    def indices(self) -> Tensor:
        """The selected experts, [tokens, k]."""
        indices: Tensor = self.given[call_roles(self.router, self.given)[1]]
        return indices

    def outputs(
        self, pairs: Sequence[PairRows], *, detached: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Compute the outputs of both experts of pairs, all in one call.

        Args:
            pairs: the pairs and their tokens.
            detached: whether the experts' inputs have no gradient.

        Returns:
            Two of [tokens, hidden size] for each pair, in float32, not weighted.
        """
        if not pairs:
            return []
        roles = call_roles(self.router, self.given)
        given = dict(self.given)
        if detached:
            given[roles[0]] = given[roles[0]].detach()
        tokens = torch.cat([rows for _, rows in pairs for _ in range(2)])
        sizes = [len(rows) for _, rows in pairs for _ in range(2)]
        experts = torch.tensor([expert for pair, _ in pairs for expert in pair])
        experts = experts.repeat_interleave(torch.tensor(sizes)).to(tokens.device)
        outputs = run_pairs(self.router, given, roles, tokens, experts, self.module).float()
        parts = torch.split(outputs, sizes)
        return list(zip(parts[::2], parts[1::2], strict=True))


@contextmanager
def watched_experts(routers: Sequence[Router], calls: dict[int, ExpertCall]) -> Iterator[None]:
    """Record the last call of each layer's experts inside the context, by layer.

    Args:
        routers: those of the model without adapters.
        calls: written to.
    """

    def see(
        router: Router, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        calls[router.layer] = ExpertCall(router, module, given_to(args, kwargs))

    with ExitStack() as stack:
        for router in routers:
            experts = router.block.get_submodule("experts")
            handle = experts.register_forward_pre_hook(partial(see, router), with_kwargs=True)
            stack.callback(handle.remove)
        yield


class Penalty(ABC):
    """A loss on the similarity of experts, and the record of it.

    Attributes:
        weight: the factor of the loss.
        routers: those of the model without adapters.
        parameters: trainable parameters of the loss.
    """

    def __init__(self, routers: Sequence[Router], weight: float = WEIGHT) -> None:
        self.routers, self.weight = tuple(routers), weight
        self.parameters: list[nn.Parameter] = []
        self._calls: dict[int, ExpertCall] = {}
        self._seen: list[tuple[list[float], float]] = []

    @abstractmethod
    def compared(self, calls: Sequence[ExpertCall], ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Compute the CKA of the pairs that are compared in a step, as scalars with gradient.

        Args:
            calls: the calls of the layers that have experts.
            ids: [batch, length], token ids.
            mask: [batch, length], 0 on padding.
        """

    @abstractmethod
    def loss(self, similarities: Tensor) -> Tensor:
        """Compute the loss of the pairs' CKA, [pairs]."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Record the experts' calls of each pass inside the context, on the adapted model."""
        with watched_experts(self.routers, self._calls):
            yield

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute what is added to the loss of the last pass, [], and keep its figures."""
        calls = [self._calls.pop(router.layer) for router in self.routers]
        found = self.compared(calls, ids, mask)
        added = ids.new_zeros((), dtype=torch.float32)
        if found:
            added = self.weight * self.loss(torch.stack(found))
        self._seen.append(([float(one.detach()) for one in found], float(added.detach())))
        return added

    def record(self) -> PenaltyRecord:
        """Return what it came to, over all steps."""
        steps = [found for found, _ in self._seen if found]
        means = [sum(found) / len(found) for found in steps]
        return PenaltyRecord(
            weight=self.weight,
            threshold=THRESHOLD,
            pairs=sum(len(found) for found in steps),
            steps_above=sum(max(found) > THRESHOLD for found in steps),
            first_cka=means[0] if means else None,
            last_cka=means[-1] if means else None,
            mean_loss=sum(added for _, added in self._seen) / max(1, len(self._seen)),
        )


class HingePenalty(Penalty):
    """The mean of relu(CKA - `THRESHOLD`) over the most co-selected pairs of some layers.

    A token counts once for all texts that begin alike: with copies CKA is not debiased.
    `shuffled` compares the outputs of different tokens, at the same cost.
    """

    def __init__(
        self, routers: Sequence[Router], seed: int, weight: float = WEIGHT, *, shuffled: bool
    ) -> None:
        super().__init__(routers, weight)
        self.shuffled = shuffled
        # Two, so that the same layers and tokens are drawn with and without shuffling.
        self._draws, self._orders = (torch.Generator().manual_seed(seed) for _ in range(2))

    def compared(self, calls: Sequence[ExpertCall], ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Compute the CKA of the pairs; see `Penalty`."""
        tokens, found = distinct_tokens(ids, mask), list[Tensor]()
        for at in torch.randperm(len(calls), generator=self._draws)[:LAYERS].tolist():
            outputs = calls[at].outputs(self._pairs(calls[at], tokens))
            found += [debiased_cka(one, other[self._order(other)]) for one, other in outputs]
        return found

    def _pairs(self, call: ExpertCall, tokens: Tensor) -> list[PairRows]:
        indices, pairs = call.indices[tokens], []
        counts = co_selected(indices, call.router.experts)
        for pair in top_pairs(counts, PAIRS, FEWEST_TOKENS):
            rows = tokens[shared_tokens(indices, pair)]
            drawn = torch.randperm(len(rows), generator=self._draws)[:MOST_TOKENS]
            pairs.append((pair, rows[drawn.to(rows.device)]))
        return pairs

    def _order(self, rows: Tensor) -> Tensor:
        if not self.shuffled:
            return torch.arange(len(rows), device=rows.device)
        return torch.randperm(len(rows), generator=self._orders).to(rows.device)

    def loss(self, similarities: Tensor) -> Tensor:
        """Compute the mean hinge."""
        return (similarities - THRESHOLD).relu().mean()


class PublishedPenalty(Penalty):
    """The sum of the CKA above `THRESHOLD`, of the pairs whose counter is above `BOUND`.

    Each layer projects outputs to as many dimensions as it has experts, by one trained linear
    layer for all of them. The experts' inputs have no gradient, and copies of a token count.
    """

    def __init__(self, routers: Sequence[Router], seed: int, width: int) -> None:
        super().__init__(routers)
        self._counters = [PairCounters(one.experts, BOUND) for one in routers]
        with torch.random.fork_rng(devices=[]):  # the adapters' training draws as without it
            torch.manual_seed(seed)
            layers = [nn.Linear(width, one.experts).to(one.device) for one in routers]
        self._projections = nn.ModuleList(layers)
        self.parameters = list(self._projections.parameters())

    def compared(self, calls: Sequence[ExpertCall], ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Compute the CKA of the pairs; see `Penalty`."""
        del ids
        tokens, found = mask.flatten().nonzero().squeeze(1), list[Tensor]()
        layers = zip(calls, self._counters, self._projections, strict=True)
        for call, counters, project in layers:
            indices = call.indices[tokens]
            pairs = [(p, tokens[shared_tokens(indices, p)]) for p in counters.due(indices)]
            outputs = call.outputs(pairs, detached=True)
            found += [published_cka(*map(project, both)) for both in outputs]
        return found

    def loss(self, similarities: Tensor) -> Tensor:
        """Compute the sum of those above the threshold."""
        return similarities[similarities > THRESHOLD].sum()


def distinct_tokens(ids: Tensor, mask: Tensor) -> Tensor:
    """Return the tokens with a beginning of text, up to and with them, that none before has.

    In a causal model all others are copies of a token, with the same hidden states.

    Args:
        ids: [batch, length], token ids.
        mask: [batch, length], 0 on padding.

    Returns:
        Their indices over batch and length, flattened, in order.
    """
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, ids.shape[1:], generator=generator).to(ids.device)
    hashes = ((ids + 1) * factors).cumsum(1).flatten()  # modulo 2**64
    kept = mask.flatten().nonzero().squeeze(1)
    _, groups = torch.unique(hashes[kept], return_inverse=True)
    first = kept.new_full((int(groups.max()) + 1,), len(hashes))
    return first.scatter_reduce(0, groups, kept, "amin").sort().values


def check_single_experts(model: nn.Module, texts: Sequence[Sequence[int]], variant: str) -> None:
    """Check on some texts that this model's experts can be run alone.

    Raises:
        UserError: they cannot.
    """
    some = texts[:_CHECKED]
    places = [(text, position) for text, ids in enumerate(some) for position in range(len(ids))]
    try:
        for tokens in record_tokens(model, some, places):
            check_outputs(tokens)
    except SteeringError as error:
        raise UserError(f"{error}; leave {variant} out") from error


def hinge_penalty(model: nn.Module, seed: int, source: str) -> HingePenalty:
    """Return the loss of `sft-lora-cka`, or of its control with this `Variant.expert_source`."""
    weight = 0.0 if source == "zero_weight" else WEIGHT
    routers = find_routers(model)
    return HingePenalty(routers, seed, weight, shuffled=source == "shuffled_rows")


def published_penalty(model: nn.Module, seed: int) -> PublishedPenalty:
    """Return the loss of `sft-simsmoe`."""
    return PublishedPenalty(find_routers(model), seed, hidden_size(model))
