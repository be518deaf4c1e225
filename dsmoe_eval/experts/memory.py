"""The memory that a pass with saliency needs beside the weights, from the model's modules.

Autograd keeps of each layer what its backward pass reads. With frozen weights that is, per token:
a float32 copy of each norm's input, the outputs of projections and of the attention, and of each
selected expert its two inner projections, the activation and the output. The rule is checked
against counted bytes of live tensors. Kinds of layers that it does not know, such as linear
attention, it underestimates, so that `ROOM` is not all that a device has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..steering import SteeringError, find_routers
from .workers import AT_ONCE

ROOM = 12_000_000_000
"""The most bytes that a batch takes beside the weights."""
_LITTLE, _PART = 300_000_000, 6
"""Bytes that a batch may take on a CPU, or that part of the weights, so that memory stays small."""
_FEWEST = 256
"""Tokens on a CPU, even if they take more than that: fewer would be too slow."""
_SHARE = 0.8
"""Of the free memory; the rest is for fragments and for what operations need inside themselves."""
_ROUTING = 40
"""Bytes per token and selected expert: indices and weights, sorted and not."""
_SCORES_AT_ONCE = 2.7
"""Attention weights of one layer beside those that are kept, where they exist as a whole. That is
before the layer's experts run: what these keep is not there yet."""
_OWN_GATE = 4
"""Inner tensors that experts with another gate than the usual one keep, instead of one."""


@dataclass(frozen=True, slots=True)
class PassMemory:
    """The bytes that a forward and a backward pass need at once.

    Attributes:
        kept: per token, what all layers keep for the backward pass.
        inputs: per token, the layers' inputs and the recorded routing, which checkpoints keep.
        working: per token, what the largest layer needs beside what it keeps.
        largest: per token, what the largest layer keeps.
        routed: per token, what the experts of a layer keep.
        scores: per token and position of its text: attention weights that all layers keep.
        layers: the number of layers.
        head: a piece of the logits and its gradient.
    """

    kept: int
    inputs: int
    working: int
    largest: int
    routed: int
    scores: int
    layers: int
    head: int

    def plain(self, tokens: int, length: int) -> int:
        """Return the bytes for a number of tokens in texts of a length."""
        return tokens * (self.kept + length * self.scores + self._working(length)) + self.head

    def checkpointed(self, tokens: int, length: int) -> int:
        """Return the bytes if only the layers' inputs are kept, and one layer is computed again."""
        layer = self.largest + length * self.scores // self.layers
        return tokens * (self.inputs + layer + self._working(length)) + self.head

    def _working(self, length: int) -> int:
        """Return the larger of what experts need and what attention needs, in one layer."""
        scores = int(_SCORES_AT_ONCE * length * self.scores / self.layers)
        return max(self.working, scores - self.routed)

    def budget(self, room: int, most: int, longest: int, fewest: int = 1) -> int:
        """Return the tokens of a batch that fits without checkpoints, from `most` in steps of 3/4.

        In steps, so that a pass that is continued with a little less free memory has equal batches.

        Args:
            room: the bytes that there are.
            most: the largest number of tokens.
            longest: the number of tokens of the longest text.
            fewest: the smallest number of tokens, whether it fits or not.
        """
        tokens = most
        while tokens > fewest and self.plain(tokens, min(tokens, longest)) > room:
            tokens = max(fewest, tokens * 3 // 4)
        return tokens


def pass_memory(model: Any, logits: int, split: bool = True) -> PassMemory | None:
    """Estimate the memory of a model, which may be without weights; None if its layers are unknown.

    Args:
        model: a causal language model of transformers.
        logits: the number of logits that are computed at once.
        split: whether that is so; else those of all tokens are.
    """
    layers, config = checkpoint_layers(model), getattr(model, "config", None)
    if not layers or config is None:
        return None
    width = int(config.get_text_config().hidden_size)
    size = model.dtype.itemsize
    experts = _experts(model)
    kept = [_kept(layer, width, size, experts) for layer in layers]
    working = [_working(layer, width, size, experts) for layer in layers]
    routed = sum(_ROUTING // 2 * top_k for top_k in experts.values())
    # Beside the layers: embeddings and their gradient, and the last states with theirs.
    ends = width * (4 * size + 8)
    if not split:
        ends += 2 * size * int(config.get_text_config().vocab_size)
    heads = int(getattr(config.get_text_config(), "num_attention_heads", 0))
    eager = getattr(config, "_attn_implementation", "sdpa") == "eager"
    return PassMemory(
        kept=sum(kept) + ends,
        inputs=len(layers) * width * size + routed + ends,
        working=max(working),
        largest=max(kept),
        routed=max((_routed(one, top_k, width, size) for one, top_k in experts.items()), default=0),
        scores=heads * size * len(layers) if eager else 0,
        layers=len(layers),
        head=logits * (2 * size + 8),
    )


def free_bytes(device: torch.device) -> int:
    """Return the bytes that a batch on a device may take beside what is there."""
    if device.type != "cuda":
        return ROOM // (AT_ONCE if device.type == "cpu" else 1)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(ROOM, int(_SHARE * (torch.cuda.mem_get_info(device)[0] + cached)))


def light_tokens(model: nn.Module, memory: PassMemory | None, most: int, longest: int) -> int:
    """Return the tokens, at most `most`, with which a batch takes little memory on a CPU.

    There a larger batch is hardly faster. On another device this is `most`.
    """
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return most
    if memory is None:
        return min(most, _FEWEST)
    weights = sum(one.numel() * one.itemsize for one in model.parameters())
    return memory.budget(max(_LITTLE, weights // _PART), most, longest, min(most, _FEWEST))


def checkpoint_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that transformers itself would checkpoint, in their order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]


@contextmanager
def checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Store only the layers' inputs for a backward pass, which computes each layer again.

    The switch of transformers needs a model in training mode, which routes differently in some.
    """
    replaced = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        layer.forward = forward
    try:
        yield
    finally:
        for layer, former in zip(layers, replaced, strict=True):
            if former is None:
                del layer.forward
            else:
                layer.forward = former


def _experts(model: nn.Module) -> dict[nn.Module, int]:
    """Return the experts' modules and how many experts of each a token selects."""
    try:
        return {router.consumer: router.top_k for router in find_routers(model)}
    except SteeringError:  # a dense model
        return {}


def _kept(layer: nn.Module, width: int, size: int, experts: dict[nn.Module, int]) -> int:
    """Return the bytes per token that a layer keeps for its backward pass."""
    total, inside = 0, [one for one in layer.modules() if one in experts]
    hidden = {part for one in inside for part in one.modules()}
    modules = dict(layer.named_modules())
    for name, module in modules.items():
        if module in hidden:
            continue
        if "Norm" in type(module).__name__:
            total += 4 * _normed(name, module, modules)
        elif isinstance(module, nn.Linear):
            back = module.out_features == width
            total += size * (module.in_features if back else module.out_features)
            total += size * width if module.out_features == 1 else 0
    return total + sum(_routed(one, experts[one], width, size) for one in inside)


def _routed(experts: nn.Module, top_k: int, width: int, size: int) -> int:
    """Return the bytes per token that a layer's router and experts keep."""
    inner, count = _inner(experts, width)
    more = width if _eager(experts) else 0
    return top_k * (size * (inner + width + more) + _ROUTING) + 8 * count


def _working(layer: nn.Module, width: int, size: int, experts: dict[nn.Module, int]) -> int:
    """Return the bytes per token that a layer needs beside what it keeps."""
    inside = [one for one in layer.modules() if one in experts and not _eager(one)]
    return (4 + max((2 * experts[one] for one in inside), default=0)) * width * size


def _normed(name: str, norm: nn.Module, modules: dict[str, nn.Module]) -> int:
    """Return the width of what a norm reads; one of heads reads a whole projection."""
    weight = getattr(norm, "weight", None)
    own = 0 if weight is None else weight.numel()
    before = modules.get(name.removesuffix("_norm") + "_proj")
    return max(own, before.out_features) if isinstance(before, nn.Linear) else own


def _inner(experts: nn.Module, width: int) -> tuple[int, int]:
    """Return the inner values per token and expert that are kept, and the number of experts."""
    stacked = {n: p for n, p in experts.named_parameters(recurse=False) if p.dim() == 3}
    if not stacked:
        count = len(list(experts.children())) or 1
        weights = sum(one.weight.numel() for one in experts.modules() if isinstance(one, nn.Linear))
        return weights // (count * width), count
    count = len(next(iter(stacked.values())))
    down = next((p for name, p in stacked.items() if "down" in name), None)
    inner = 0 if down is None else down.numel() // (count * width)
    up = sum(p.numel() for name, p in stacked.items() if "down" not in name) // (count * width)
    gate = getattr(type(experts), "_apply_gate", None)
    own = getattr(gate, "__name__", "_default_apply_gate") != "_default_apply_gate"
    return up + inner * (_OWN_GATE if own else 1), count


def _eager(experts: nn.Module) -> bool:
    config: Any = getattr(experts, "config", None)
    return getattr(config, "_experts_implementation", None) in (None, "eager")
