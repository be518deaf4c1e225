"""Computes the outputs of single experts on the same tokens, whether selected for them or not.

The experts module is called as its block calls it, but with one expert and a weight of one.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
"""An argument of a call: its position or its name."""
Given = Mapping[Argument, Any]
"""The arguments of a call."""


@dataclass(frozen=True, slots=True)
class LayerTokens:
    """Some tokens at the experts of one layer: the experts' input and output.

    Attributes:
        router: the router of the layer.
        hidden: [tokens, hidden size], the experts' input.
        indices: [tokens, k], the selected experts.
        weights: [tokens, k], their weights.
        output: [tokens, hidden size], the output of the experts module.
        roles: the arguments that are `hidden`, `indices` and `weights`.
        others: the other arguments.
    """

    router: Router
    hidden: Tensor
    indices: Tensor
    weights: Tensor
    output: Tensor
    roles: tuple[Argument, Argument, Argument]
    others: Given

    @torch.no_grad()
    def run(self, expert: int, rows: Tensor | None = None, experts: Any = None) -> Tensor:
        """Compute the output of one expert, not weighted.

        Args:
            expert: index of the expert.
            rows: indices of tokens; by default all.
            experts: another experts module of the same kind; by default that of the layer.

        Returns:
            [tokens, hidden size].
        """
        hidden = self.hidden if rows is None else self.hidden[rows]
        index = self.indices.new_full((len(hidden), 1), expert)
        weight = self.weights.new_ones(len(hidden), 1)
        given = {**self.others, **dict(zip(self.roles, (hidden, index, weight), strict=True))}
        ordered = [given[index] for index in sorted(i for i in given if isinstance(i, int))]
        named = {name: value for name, value in given.items() if isinstance(name, str)}
        module = self.router.consumer if experts is None else experts
        output: Tensor = module(*ordered, **named)
        return output


def sample_tokens(texts: Sequence[Sequence[int]], count: int, seed: int) -> tuple[Place, ...]:
    """Draw tokens evenly over texts: one of each text, then a second of each, and so on.

    In a causal model a hidden state depends on the token and all tokens before it. If these are
    equal in several texts, such as in a common prefix, only the first of the tokens can be drawn.

    Args:
        texts: token ids.
        count: number of tokens.
        seed: seed of the draw.

    Raises:
        ValueError: the texts have fewer distinct tokens than `count`.
    """
    places = _distinct_tokens(texts)
    if len(places) < count:
        raise ValueError(f"the texts have {len(places)} distinct tokens, but {count} are needed")
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
    """Run a causal model on texts and record the given tokens at every layer's experts.

    Args:
        model: a transformers MoE causal language model; its state is restored.
        texts: token ids; each text is run up to its last token in `places`.
        places: the tokens to record; they are in the same order in every layer.

    Raises:
        SteeringError: the model has no known router, or the experts of a layer are called in a way
            that does not allow a single expert to be run.
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
    """Check that `LayerTokens.run` computes the outputs of single experts on this model.

    For every token the weighted sum of the selected experts' outputs, computed one by one, must be
    the output of the experts module.

    Returns:
        The largest difference over tokens, as a share of the summed norms of the weighted outputs.

    Raises:
        SteeringError: the difference is larger than rounding in the outputs' dtype.
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
    if not error <= allowed:  # also if it is NaN
        raise SteeringError(
            f"layer {tokens.router.layer}: single experts of "
            f"{type(tokens.router.consumer).__name__} do not add up to the layer's output "
            f"(relative error {error:.2g}, limit {allowed:.2g}); they cannot be compared on this "
            "model"
        )
    return error


@torch.no_grad()
def random_experts(tokens: LayerTokens, seed: int) -> nn.Module:
    """Copy a layer's experts with random weights of the same mean and standard deviation.

    Each expert's part of each parameter is drawn from a normal distribution with the mean and the
    standard deviation of that part.

    Raises:
        SteeringError: the weights are quantized or not in memory.
    """
    experts = copy.deepcopy(tokens.router.consumer)
    generator = torch.Generator(tokens.hidden.device).manual_seed(seed)
    for name, parameter in experts.named_parameters():
        if parameter.dtype not in _PRECISIONS or parameter.is_meta:
            raise SteeringError(
                f"layer {tokens.router.layer}: {name!r} of the experts is {parameter.dtype} on "
                f"{parameter.device}; random experts need unquantized weights in memory"
            )
        for part in parameter:
            values = part.float()
            spread = float(values.std(correction=0))
            part.normal_(float(values.mean()), spread, generator=generator)
    return experts


class _Recorder:
    """A recorder of selected rows of every call of a layer's experts."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.long)
        self.parts: dict[int, list[tuple[Tensor, ...]]] = defaultdict(list)
        self.calls: dict[int, Given] = {}

    def see(self, router: Router, given: Given, output: Any) -> None:
        roles = call_roles(router, given)
        tensors = (*(given[role] for role in roles), output)
        rows = self.rows.to(given[roles[0]].device)
        self.parts[router.layer].append(tuple(tensor[rows] for tensor in tensors))
        self.calls[router.layer] = given

    def tokens(self, router: Router) -> LayerTokens:
        if router.layer not in self.parts:
            raise SteeringError(f"no call of the experts was recorded in layer {router.layer}")
        hidden, indices, weights, output = (
            torch.cat(column) for column in zip(*self.parts[router.layer], strict=True)
        )
        given = self.calls[router.layer]
        roles = call_roles(router, given)
        others = {name: value for name, value in given.items() if name not in roles}
        return LayerTokens(router, hidden, indices, weights, output, roles, others)


def given_to(args: Iterable[object], kwargs: Mapping[str, object]) -> Given:
    """Return the arguments of a call, by position and name."""
    given: dict[Argument, object] = dict(enumerate(args))
    given.update(kwargs)
    return given


def call_roles(router: Router, given: Given) -> tuple[Argument, Argument, Argument]:
    """Return the arguments of the experts' call for hidden states, indices and weights.

    Raises:
        SteeringError: type and shape do not identify them, or there are other tensors.
    """
    shapes = {name: value.shape for name, value in given.items() if isinstance(value, Tensor)}
    indices = [name for name in shapes if not given[name].is_floating_point()]
    floats = [name for name in shapes if name not in indices]
    weights = [name for name in floats if shapes[name] == shapes[indices[0]]] if indices else []
    hidden = [name for name in floats if name not in weights]
    counts = (len(hidden), len(indices), len(weights))
    if counts != (1, 1, 1) or any(len(shape) != 2 for shape in shapes.values()):
        raise SteeringError(
            f"layer {router.layer}: {type(router.consumer).__name__} is not called with the "
            "tokens' hidden states, indices and weights alone; single experts cannot be run"
        )
    return hidden[0], indices[0], weights[0]


def run_pairs(
    router: Router,
    given: Given,
    roles: tuple[Argument, Argument, Argument],
    tokens: Tensor,
    experts: Tensor,
    module: nn.Module | None = None,
) -> Tensor:
    """Compute the outputs of experts on tokens, not weighted: pair i is expert i on token i.

    Gradients are recorded where they are enabled.

    Args:
        router: the router of the layer.
        given: the arguments of a call of its experts.
        roles: those that are hidden states, indices and weights; see `call_roles`.
        tokens: [pairs], indices of the call's tokens.
        experts: [pairs].
        module: what wraps the layer's experts, such as adapters; by default the experts.

    Returns:
        [pairs, hidden size], with gradient.

    Raises:
        SteeringError: the module does not allow one expert per token.
    """
    hidden, indices, weights = (given[role] for role in roles)
    columns = (
        hidden[tokens],
        experts.to(indices.dtype).unsqueeze(1),
        weights.new_ones(len(tokens), 1),
    )
    changed = {**given, **dict(zip(roles, columns, strict=True))}
    ordered = [changed[index] for index in sorted(i for i in changed if isinstance(i, int))]
    named = {name: value for name, value in changed.items() if isinstance(name, str)}
    try:
        # `forward` skips the module's hooks, which must only see the calls of the model itself.
        output: Tensor = (module or router.consumer).forward(*ordered, **named)
    except (ValueError, IndexError) as error:
        raise SteeringError(
            f"layer {router.layer}: {type(router.consumer).__name__} cannot be called with one "
            f"expert per token ({error}); single experts cannot be run"
        ) from error
    return output


@contextmanager
def _recorded(routers: Sequence[Router]) -> Iterator[_Recorder]:
    recorder = _Recorder()

    def watch(router: Router) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            recorder.see(router, given_to(args, kwargs), output)

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
    """Yield ids and mask, [texts, length], and the flat indices of the tokens to record."""
    positions: dict[int, list[int]] = defaultdict(list)
    for text, position in places:
        positions[text].append(position)
    rest = sorted(positions, key=lambda text: (-max(positions[text]), text))
    while rest:
        length = max(positions[rest[0]]) + 1
        count = max(1, TOKENS_A_BATCH // length)
        batch, rest = rest[:count], rest[count:]
        cut = [torch.tensor(texts[text][: max(positions[text]) + 1]) for text in batch]
        ids = nn.utils.rnn.pad_sequence(cut, batch_first=True)
        ends = torch.tensor([len(kept) for kept in cut])
        mask = (torch.arange(length) < ends.unsqueeze(1)).long()
        rows = [row * length + p for row, text in enumerate(batch) for p in positions[text]]
        yield ids, mask, torch.tensor(rows)
