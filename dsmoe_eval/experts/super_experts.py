"""Super experts: the few whose removal breaks a model as such (arXiv 2507.23279).

Their output has a rare, extreme value, which makes a massive activation in the residual stream
(arXiv 2402.17762: larger than 100, and than 1,000 times the median), on which attention sinks
depend. To mask one measures breakage, and not what a domain needs.

By the paper's rule an expert is one if the largest size of its output over tokens is above the
99.5th percentile of all experts, and above a tenth of the largest, in a layer in which massive
activations form. These are here the layers up to the one whose stream has the largest activation,
if that is massive, among the first three quarters, to which the paper's code limits the search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..steering import Router, decoder_layers, find_routers
from .batching import entrance, pad
from .contribution import run_each

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Hook = Callable[..., None]
"""A forward hook of torch."""
LOOKED_AT = 1024
"""The number of tokens that are enough: massive activations are at the first tokens of texts."""
_PERCENTILE, _TIMES, _SEARCHED = 99.5, 10.0, 0.75
_MASSIVE, _MEDIANS = 100.0, 1000.0


@dataclass(frozen=True, slots=True)
class Peaks:
    """The largest sizes of single numbers, over tokens.

    Attributes:
        layers: the MoE layers, in the order of the rows of `output`.
        output: [MoE layers, experts], of an expert's output; 0 where it is never selected.
        stream: [decoder layers], of the residual stream after a layer.
        median: [decoder layers], the median size there.
        tokens: number of tokens.
    """

    layers: tuple[int, ...]
    output: NDArray[np.float64]
    stream: NDArray[np.float64]
    median: NDArray[np.float64]
    tokens: int


@dataclass(frozen=True, slots=True)
class SuperExpert:
    """A super expert with the largest size of its output."""

    layer: int
    expert: int
    peak: float


def super_experts(peaks: Peaks) -> tuple[SuperExpert, ...]:
    """Return the super experts, the largest first; see the module for the rule."""
    searched = max(1, round(_SEARCHED * len(peaks.stream)))
    top = int(peaks.stream[:searched].argmax())
    largest = peaks.stream[top]
    if not (largest > _MASSIVE and largest > _MEDIANS * peaks.median[top]):
        return ()
    high = np.percentile(peaks.output, _PERCENTILE)
    limit = max(high, peaks.output.max() / _TIMES)
    found = [
        SuperExpert(layer, int(expert), float(peaks.output[row, expert]))
        for row, layer in enumerate(peaks.layers)
        if layer <= top
        for expert in np.flatnonzero(peaks.output[row] > limit)
    ]
    return tuple(sorted(found, key=lambda one: -one.peak))


@torch.no_grad()
def measure_peaks(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> Peaks:
    """Run a model on texts and measure its experts' outputs and its residual stream.

    Args:
        model: a transformers MoE causal language model; its state is restored.
        texts: token ids, all run in one batch.

    Raises:
        SteeringError: the experts of a layer cannot be run one by one.
    """
    routers = find_routers(model)
    layers = decoder_layers(model, routers)
    ids, mask = pad(texts, entrance(model))
    watch = _Watch(mask.flatten().bool(), len(layers), len(routers), routers[0].experts)
    training = model.training
    with ExitStack() as hooks:
        hooks.callback(model.train, training)
        model.eval()
        for row, router in enumerate(routers):
            hook = watch.experts(row, router)
            handle = router.consumer.register_forward_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        for row, layer in enumerate(layers):
            hooks.callback(layer.register_forward_hook(watch.layer(row)).remove)
        model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return Peaks(
        layers=tuple(router.layer for router in routers),
        output=watch.output.double().numpy(),
        stream=watch.stream.double().numpy(),
        median=watch.median.double().numpy(),
        tokens=int(mask.sum()),
    )


class _Watch:
    """The hooks of a model: the largest sizes of its experts' outputs and of its stream."""

    def __init__(self, kept: Tensor, layers: int, rows: int, experts: int) -> None:
        self.kept = kept
        self.output = torch.zeros(rows, experts)
        self.stream, self.median = torch.zeros(layers), torch.zeros(layers)

    def experts(self, row: int, router: Router) -> Hook:
        def hook(
            module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], _out: object
        ) -> None:
            each, _ = run_each(module, args, kwargs, router)
            chosen = _indices(args, kwargs)
            kept = self.kept.to(each.device)
            peaks, experts = each.abs().amax(-1)[kept].flatten(), chosen[kept].flatten().long()
            known = self.output[row].to(each.device)
            self.output[row] = known.scatter_reduce(0, experts, peaks, "amax").cpu()

        return hook

    def layer(self, row: int) -> Hook:
        def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            sizes = stream.detach().float().flatten(0, 1).abs()[self.kept.to(stream.device)]
            self.stream[row], self.median[row] = sizes.max().cpu(), sizes.median().cpu()

        return hook


def _indices(args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor:
    """Return the selected experts, [tokens, k]: the only tensor of whole numbers of the call."""
    return next(
        one
        for one in (*args, *kwargs.values())
        if isinstance(one, Tensor) and not one.is_floating_point()
    )
