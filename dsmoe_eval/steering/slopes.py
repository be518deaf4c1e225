"""Slopes of neurons: d(log-likelihood) / d(s) where neuron j's a_j becomes a_j (1 + s), at s = 0.

With g_t the gradient at the FFN's output, the slope is the sum over tokens of a_j <g_t, d_j>, which
is a_j times the gradient at the down projection's input. One backward pass gives all neurons of
all layers. The FFN's output is linear in s and no router selects, so that a larger step adds
nothing: what two forms are for experts is one for neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from .neurons import NeuronSite


class _Context(Protocol):
    """What autograd keeps between a forward and a backward pass."""

    saved_tensors: tuple[Tensor, ...]
    total: Tensor

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Tally(torch.autograd.Function):
    """Passes values on, and adds up values times gradients in the backward pass.

    The values are saved as autograd's are, so that a layer that is computed again gives them anew.
    """

    @staticmethod
    def forward(ctx: _Context, values: Tensor, total: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        ctx.total = total
        return values.view_as(values)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor, None]:
        (values,), (gradient,), total = ctx.saved_tensors, gradients, ctx.total
        rows, units = total.shape
        width = values.shape[-1]
        texts = zip(values.reshape(rows, -1, width), gradient.reshape(rows, -1, width), strict=True)
        for row, (value, slope) in enumerate(texts):
            sums = (value.to(total.dtype) * slope.to(total.dtype)).sum(0)
            total[row] += sums.view(units, -1).sum(-1)
        return gradient, None


@contextmanager
def neuron_slopes(
    sites: Sequence[NeuronSite], rows: int, dtype: torch.dtype = torch.float32
) -> Iterator[Callable[[], Tensor]]:
    """Add up the slopes of all units in the backward passes inside the context.

    Only these sums stay: nothing of the size of tokens times neurons outlives the pass. The input
    of the model must need a gradient. A block's slope is the sum of its neurons'.

    Args:
        sites: the FFNs.
        rows: the number of texts in the batch, [rows, length].
        dtype: the dtype of the sums.

    Yields:
        A function that returns the slopes, [rows, layers, units] on the CPU.
    """
    totals = [torch.zeros(rows, one.experts, dtype=dtype, device=one.device) for one in sites]

    def hook(total: Tensor) -> Callable[..., tuple[Tensor, ...]]:
        def tally(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (cast(Tensor, _Tally.apply(given[0], total)), *given[1:])  # type: ignore[no-untyped-call]

        return tally

    handles = [
        one.module.register_forward_pre_hook(hook(total))
        for one, total in zip(sites, totals, strict=True)
    ]
    try:
        yield lambda: torch.stack([total.cpu() for total in totals], 1)
    finally:
        for handle in handles:
            handle.remove()
