"""What single experts make of the same tokens, selected for them or not.

The experts module is called as its block calls it, but with one expert and a weight of one. That
this gives that expert's output is not taken on trust: see `check_outputs`.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..steering import Router, SteeringError, find_routers

TOKENS_A_BATCH = 4096
_ROUNDINGS = 4
_LEAST_TOLERANCE = 1e-4
_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Place = tuple[int, int]
"""A token: (text, position)."""
Argument = int | str
"""Of a call: its position or its name."""


@dataclass(frozen=True, slots=True)
class LayerTokens:
    """Some tokens at the experts of one layer: what went in, and what came out.

    Attributes:
        router: of the layer.
        hidden: [tokens, hidden size], the experts' input.
        indices: [tokens, k], the selected experts.
        weights: [tokens, k], their weights.
        output: [tokens, hidden size], what the experts module returned.
        roles: the arguments that hold `hidden`, `indices` and `weights`.
        others: the other arguments.
    """

    router: Router
    hidden: Tensor
    indices: Tensor
    weights: Tensor
    output: Tensor
    roles: tuple[Argument, Argument, Argument]
    others: Mapping[Argument, Any]

    @torch.no_grad()
    def run(self, expert: int, rows: Tensor | None = None, experts: Any = None) -> Tensor:
        """The output of one expert, not weighted.

        Args:
            expert: which.
            rows: indices of tokens; by default all.
            experts: another module like the layer's; by default the layer's own.

        Returns:
            [tokens, hidden size].
        """
        hidden = self.hidden if rows is None else self.hidden[rows]
        index = self.indices.new_full((len(hidden), 1), expert)
        weight = self.weights.new_ones(len(hidden), 1)
        given = {**self.others, **dict(zip(self.roles, (hidden, index, weight), strict=True))}
        ordered = [given[place] for place in sorted(p for p in given if isinstance(p, int))]
        named = {name: value for name, value in given.items() if isinstance(name, str)}
        module = self.router.consumer if experts is None else experts
        output: Tensor = module(*ordered, **named)
        return output


def sample_tokens(texts: Sequence[Sequence[int]], count: int, seed: int) -> tuple[Place, ...]:
    """Tokens spread evenly over texts: one of each text, then a second of each, and so on.

    In a causal model a hidden state depends on the tokens up to its own; of tokens for which those
    are the same, such as a beginning that all texts share, only the first can be drawn.

    Args:
        texts: token ids.
        count: how many tokens.
        seed: of the draw.

    Raises:
        ValueError: the texts hold fewer distinct tokens than `count`.
    """
    places = _distinct_tokens(texts)
    if len(places) < count:
        raise ValueError(f"the texts hold {len(places)} distinct tokens, and {count} are needed")
    order = np.random.default_rng(seed).permutation(len(places))
    before: Counter[int] = Counter()
    turns = []
    for text, position in (places[index] for index in order):
        turns.append((before[text], (text, position)))
        before[text] += 1
    turns.sort(key=lambda turn: turn[0])
    return tuple(sorted(place for _, place in turns[:count]))


def _distinct_tokens(texts: Sequence[Sequence[int]]) -> list[Place]:
    seen: set[int] = set()
    places = []
    for text, ids in enumerate(texts):
        prefix = 0
        for position, token in enumerate(ids):
            prefix = hash((prefix, token))
            if prefix not in seen:
                seen.add(prefix)
                places.append((text, position))
    return places


@torch.no_grad()
def record_tokens(
    model: Any, texts: Sequence[Sequence[int]], places: Sequence[Place]
) -> tuple[LayerTokens, ...]:
    """Run a causal model over texts and keep the given tokens at every layer's experts.

    Args:
        model: a transformers MoE causal language model; left as it was found.
        texts: token ids; each is run up to its last wanted token.
        places: the wanted tokens; those of each layer come out in the same order.

    Raises:
        SteeringError: the model has no router that is known, or the experts of a layer are not
            called in a way in which a single one can be run.
    """
    routers = find_routers(model)
    for router in routers:
        if router.native_only:
            raise SteeringError(
                f"layer {router.layer}: {type(router.consumer).__name__} selects experts itself "
                "and cannot run a single one; load the model dequantized"
            )
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with _recorded(routers) as recorder:
            for ids, mask, rows in _batches(texts, places):
                recorder.rows = rows.to(device)
                model(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    use_cache=False,
                    logits_to_keep=1,
                )
    finally:
        model.train(training)
    return tuple(recorder.tokens(router) for router in routers)


def check_outputs(tokens: LayerTokens) -> float:
    """Prove that `LayerTokens.run` gives what single experts give on this model.

    For every token the selected experts' outputs, run one by one, weighted and summed, must be what
    the experts module returned.

    Returns:
        The largest difference over tokens, as a share of the summed norms of the weighted outputs.

    Raises:
        SteeringError: the difference is more than rounding in the outputs' dtype explains.
    """
    total = torch.zeros_like(tokens.output, dtype=torch.float32)
    size = total.new_zeros(len(total))
    for expert in sorted(set(tokens.indices.flatten().tolist())):
        rows, slots = (tokens.indices == expert).nonzero(as_tuple=True)
        part = tokens.run(expert, rows).float() * tokens.weights[rows, slots, None].float()
        total.index_add_(0, rows, part)
        size.index_add_(0, rows, part.norm(dim=-1))
    difference = (total - tokens.output.float()).norm(dim=-1)
    error = float((difference / size.clamp_min(torch.finfo(torch.float32).tiny)).max())
    allowed = max(_LEAST_TOLERANCE, _ROUNDINGS * torch.finfo(tokens.output.dtype).eps)
    if not error <= allowed:  # also where it is not a number
        raise SteeringError(
            f"layer {tokens.router.layer}: single experts of "
            f"{type(tokens.router.consumer).__name__} do not add up to the layer's output (off by "
            f"{error:.2g} of it, {allowed:.2g} is rounding); they cannot be compared on this model"
        )
    return error


@torch.no_grad()
def random_experts(tokens: LayerTokens, seed: int) -> nn.Module:
    """A copy of a layer's experts with random weights, each tensor as wide as it was.

    Each expert's part of each parameter is drawn from the normal distribution of its own mean and
    standard deviation.

    Raises:
        SteeringError: the weights are quantized or not in memory.
    """
    experts = copy.deepcopy(tokens.router.consumer)
    generator = torch.Generator(tokens.hidden.device).manual_seed(seed)
    for name, parameter in experts.named_parameters():
        if parameter.dtype not in _PRECISIONS or parameter.is_meta:
            raise SteeringError(
                f"layer {tokens.router.layer}: {name!r} of the experts is {parameter.dtype} on "
                f"{parameter.device}; random experts can be drawn for unquantized weights in "
                "memory only"
            )
        for part in parameter:
            values = part.float()
            spread = float(values.std(correction=0))
            part.normal_(float(values.mean()), spread, generator=generator)
    return experts


class _Recorder:
    """Keeps the rows of interest of every call of a layer's experts."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.long)
        self.parts: dict[int, list[tuple[Tensor, ...]]] = defaultdict(list)
        self.calls: dict[int, Mapping[Argument, Any]] = {}

    def see(self, router: Router, given: Mapping[Argument, Any], output: Any) -> None:
        roles = call_roles(router, given)
        tensors = (*(given[role] for role in roles), output)
        rows = self.rows.to(given[roles[0]].device)
        self.parts[router.layer].append(tuple(tensor[rows] for tensor in tensors))
        self.calls[router.layer] = given

    def tokens(self, router: Router) -> LayerTokens:
        if router.layer not in self.parts:
            raise SteeringError(f"no call of the experts was seen in layer {router.layer}")
        hidden, indices, weights, output = (
            torch.cat(column) for column in zip(*self.parts[router.layer], strict=True)
        )
        given = self.calls[router.layer]
        roles = call_roles(router, given)
        others = {place: value for place, value in given.items() if place not in roles}
        return LayerTokens(router, hidden, indices, weights, output, roles, others)


def call_roles(
    router: Router, given: Mapping[Argument, Any]
) -> tuple[Argument, Argument, Argument]:
    """Which arguments of the experts' call hold the hidden states, the indices and the weights.

    Raises:
        SteeringError: they are not told apart by type and shape, or are not the only tensors.
    """
    shapes = {place: value.shape for place, value in given.items() if isinstance(value, Tensor)}
    indices = [place for place in shapes if not given[place].is_floating_point()]
    floats = [place for place in shapes if place not in indices]
    weights = [place for place in floats if shapes[place] == shapes[indices[0]]] if indices else []
    hidden = [place for place in floats if place not in weights]
    counts = (len(hidden), len(indices), len(weights))
    if counts != (1, 1, 1) or any(len(shape) != 2 for shape in shapes.values()):
        raise SteeringError(
            f"layer {router.layer}: {type(router.consumer).__name__} is not called with the "
            "tokens' hidden states, indices and weights alone; single experts cannot be run"
        )
    return hidden[0], indices[0], weights[0]


@contextmanager
def _recorded(routers: Sequence[Router]) -> Iterator[_Recorder]:
    recorder = _Recorder()

    def watch(router: Router) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            given: dict[Argument, Any] = dict(enumerate(args))
            given.update(kwargs)
            recorder.see(router, given, output)

        return router.consumer.register_forward_hook(hook, with_kwargs=True)

    handles = [watch(router) for router in routers]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _batches(
    texts: Sequence[Sequence[int]], places: Sequence[Place]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids and mask, [texts, length], and the flat indices of the wanted tokens among them."""
    wanted: dict[int, list[int]] = defaultdict(list)
    for text, position in places:
        wanted[text].append(position)
    rest = sorted(wanted, key=lambda text: (-max(wanted[text]), text))
    while rest:
        length = max(wanted[rest[0]]) + 1
        count = max(1, TOKENS_A_BATCH // length)
        batch, rest = rest[:count], rest[count:]
        cut = [torch.tensor(texts[text][: max(wanted[text]) + 1]) for text in batch]
        ids = nn.utils.rnn.pad_sequence(cut, batch_first=True)
        ends = torch.tensor([len(one) for one in cut])
        mask = (torch.arange(length) < ends.unsqueeze(1)).long()
        rows = [row * length + p for row, text in enumerate(batch) for p in wanted[text]]
        yield ids, mask, torch.tensor(rows)
