"""A carved model for training: every FFN computes all neurons, and masks what is not selected.

This is the same function as the carved checkpoint, without its gathering of tokens by expert, and
with the deltas as parameters. The same module, without deltas and mask, is the dense model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .carving import PROJECTIONS, CarvedLayer, CarvedShape, Projection, reordered

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_INERTIA = 0.9


class MaskedMoe(nn.Module):
    """A carved FFN.

    Attributes:
        dense: whether to compute the dense FFN instead.
        balance: the load-balancing loss of the last forward pass, 1 if all experts are used
            equally: experts x sum of load x mean probability (Switch, arXiv 2101.03961). The load
            is a moving average, so that it is that of many texts however few are in a batch.
    """

    order: Tensor
    load: Tensor

    def __init__(self, mlp: nn.Module, carved: CarvedLayer, shape: CarvedShape, rank: int) -> None:
        super().__init__()
        own: dict[Projection, Tensor] = {
            name: mlp.get_parameter(f"{name}_proj.weight").detach() for name in PROJECTIONS
        }
        device = own["gate"].device
        order = carved.order.to(device)
        moved = reordered(own, CarvedLayer(order, carved.router))
        self.shape, self.dense, self.balance = shape, False, torch.zeros(())
        self.router = nn.Parameter(carved.router.to(device, copy=True))
        self.factors = nn.ParameterDict()
        for name, weight in moved.items():
            self.register_buffer(name, weight, persistent=False)
            rows, columns = weight.shape
            left, right = carved.deltas.get(name) or (
                torch.zeros(rows, rank),
                torch.randn(rank, columns) * columns**-0.5,
            )
            for letter, factor in (("B", left), ("A", right)):
                self.factors[f"{letter}{name[0]}"] = nn.Parameter(factor.float().to(device))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("load", self.router.new_full((shape.experts,), 1 / shape.experts))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the FFN, [..., hidden] to [..., hidden]."""
        neurons = nn.functional.silu(self._project("gate", hidden)) * self._project("up", hidden)
        if not self.dense:
            neurons = neurons * self._weights(hidden).to(neurons.dtype)
        return self._project("down", neurons)

    def carved(self) -> CarvedLayer:
        """Return the present carving, on the CPU; the deltas in bfloat16, as they ship."""
        factors = {name: factor.detach().bfloat16().cpu() for name, factor in self.factors.items()}
        return CarvedLayer(
            order=self.order.cpu(),
            router=self.router.detach().cpu(),
            deltas={name: (factors[f"B{name[0]}"], factors[f"A{name[0]}"]) for name in PROJECTIONS},
        )

    def _project(self, name: Projection, given: Tensor) -> Tensor:
        output = linear(given, getattr(self, name))
        if self.dense:
            return output
        left, right = self.factors[f"B{name[0]}"], self.factors[f"A{name[0]}"]
        return output + linear(linear(given, right), left)

    def _weights(self, hidden: Tensor) -> Tensor:
        """Return the weight of each neuron, [..., neurons]."""
        shape = self.shape
        with torch.autocast(hidden.device.type, enabled=False):
            scores = linear(hidden.float(), self.router).softmax(-1)
        weights, chosen = scores.topk(shape.active)
        weights = shape.active * weights / weights.sum(-1, keepdim=True)
        routed = torch.zeros_like(scores).scatter(-1, chosen, weights)
        if self.training:
            used = torch.bincount(chosen.flatten(), minlength=shape.experts) / chosen.numel()
            self.load.mul_(_INERTIA).add_(used, alpha=1 - _INERTIA)
            mean = scores.flatten(0, -2).mean(0)
            self.balance = shape.experts * (self.load.clone() * mean).sum()
        shared = routed.new_ones(*routed.shape[:-1], shape.shared)
        return torch.cat([shared, routed.repeat_interleave(shape.width, -1)], -1)


def make_trainable(
    model: LlamaForCausalLM, layers: Sequence[CarvedLayer], shape: CarvedShape, rank: int
) -> list[MaskedMoe]:
    """Replace a dense model's FFNs by carved ones and freeze the rest; return them.

    Args:
        model: the dense model; it is changed.
        layers: one carving per layer; without deltas these start at zero.
        shape: sizes of all FFNs.
        rank: rank of the deltas.
    """
    model.requires_grad_(False)
    for layer, carved in zip(model.model.layers, layers, strict=True):
        layer.mlp = MaskedMoe(layer.mlp, carved, shape, rank)
    return [layer.mlp for layer in model.model.layers]


@contextmanager
def as_dense(layers: Sequence[MaskedMoe]) -> Iterator[None]:
    """Compute the dense model inside the context."""
    for layer in layers:
        layer.dense = True
    try:
        yield
    finally:
        for layer in layers:
            layer.dense = False
