"""Chooses how a dense model's FFNs are carved: which neurons are shared, which form an expert.

A neuron counts as active on a token if |activation| times the length of its column of the down
projection is among the tenth of the layer's largest. The neurons that are active most often form
the shared expert; those that are active together form the routed ones; a router starts as the ridge
regression of each expert's energy on the layer's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .carving import CarvedLayer, CarvedShape

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_ACTIVE = 0.1
_ROUNDS = 5
_RIDGE = 0.01  # of the mean squared input
_ROUTER = 0.1

Watch = Callable[[int, Tensor, Tensor], None]


@torch.no_grad()
def choose_carving(
    model: LlamaForCausalLM,
    sequences: Sequence[Tensor],
    shape: CarvedShape,
    seed: int,
    advance: Callable[[int], None],
) -> list[CarvedLayer]:
    """Choose neurons and first routers of all layers from the activations on some text.

    Args:
        model: the dense model.
        sequences: token ids, each [1, tokens].
        shape: sizes of all FFNs.
        seed: of the clusters' first centres.
        advance: called with numbers of steps done; they sum to twice the sequences and the layers.
    """
    layers = [layer.mlp for layer in model.model.layers]
    lengths = [mlp.down_proj.weight.norm(dim=0) for mlp in layers]
    together = [length.new_zeros(shape.neurons, shape.neurons) for length in lengths]

    def count(index: int, _input: Tensor, neurons: Tensor) -> None:
        size = neurons.abs() * lengths[index]
        largest = size.topk(round(_ACTIVE * shape.neurons)).indices
        active = torch.zeros_like(size).scatter(1, largest, 1.0)
        together[index] += active.T @ active

    _run(model, sequences, count, advance)
    orders = []
    for index, counts in enumerate(together):
        orders.append(order_neurons(counts.cpu().double().numpy(), shape, seed + index))
        advance(1)
    fits = [_Ridge(shape, order, length) for order, length in zip(orders, lengths, strict=True)]
    _run(model, sequences, lambda index, *seen: fits[index].add(*seen), advance)
    return [
        CarvedLayer(order.cpu(), _ROUTER * fit.solve())
        for order, fit in zip((fit.order for fit in fits), fits, strict=True)
    ]


def order_neurons(
    together: NDArray[np.float64], shape: CarvedShape, seed: int
) -> NDArray[np.int64]:
    """Return the neurons in their new order: the shared ones, then expert by expert.

    Args:
        together: numbers of tokens on which two neurons were active, [neurons, neurons].
        shape: sizes of the FFN.
        seed: of the clusters' first centres.
    """
    often = np.diag(together)
    ranked = np.argsort(-often, kind="stable")
    shared, rest = np.sort(ranked[: shape.shared]), np.sort(ranked[shape.shared :])
    scale = 1 / np.sqrt(np.maximum(often[rest], 1))
    likeness = together[np.ix_(rest, rest)] * scale[:, None] * scale
    clusters = balanced_clusters(likeness, shape.experts, seed)
    grouped = [rest[clusters == expert] for expert in range(shape.experts)]
    return np.concatenate([shared, *grouped])


def balanced_clusters(points: NDArray[np.float64], clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the cluster of each point: k-means on directions, with clusters of equal size.

    Each round assigns the points so that the sum of cosines to the clusters' centres is largest.

    Args:
        points: [points, features]; `clusters` divides their number.
        clusters: number of clusters.
        seed: of the points that are the first centres.
    """
    from scipy.optimize import linear_sum_assignment

    size = len(points) // clusters
    units = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    centres = units[np.random.default_rng(seed).choice(len(points), clusters, replace=False)]
    members = np.zeros(len(points), dtype=np.int64)
    for _ in range(_ROUNDS):
        cosines = np.repeat(units @ centres.T, size, axis=1)
        members = linear_sum_assignment(cosines, maximize=True)[1] // size
        sums = np.stack([units[members == one].sum(0) for one in range(clusters)])
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return members


class _Ridge:
    """A ridge regression of experts' standardised energies on the layer's input, from sums."""

    def __init__(self, shape: CarvedShape, order: NDArray[np.int64], length: Tensor) -> None:
        self.order = torch.from_numpy(order).to(length.device)
        self._shape, self._length = shape, length[self.order]
        self._inputs = self._products = self._sums = torch.zeros((), device=length.device)
        self._squares, self._tokens = self._sums, 0

    def add(self, hidden: Tensor, neurons: Tensor) -> None:
        """Add tokens: the FFN's input, [tokens, hidden], and activations, [tokens, neurons]."""
        size = (neurons[:, self.order] * self._length)[:, self._shape.shared :]
        grouped = size.reshape(len(size), self._shape.experts, self._shape.width)
        energy = grouped.square().sum(-1).sqrt().double()
        wide = hidden.double()
        self._inputs = self._inputs + wide.T @ wide
        self._products = self._products + wide.T @ energy
        self._sums = self._sums + torch.stack([energy.sum(0), energy.square().sum(0)])
        self._squares = self._squares + wide.sum(0)
        self._tokens += len(hidden)

    def solve(self) -> Tensor:
        """Return the weights, [experts, hidden], in float32 on the CPU."""
        mean, square = (self._sums / self._tokens).unbind()
        spread = (square - mean**2).clamp_min(1e-12).sqrt()
        products = (self._products - self._squares[:, None] * mean) / spread
        ridge = _RIDGE * self._inputs.diagonal().mean()
        damped = self._inputs + ridge * torch.eye(len(self._inputs), device=mean.device)
        weights: Tensor = torch.linalg.solve(damped, products)
        return weights.T.float().cpu().contiguous()


def _run(
    model: LlamaForCausalLM,
    sequences: Sequence[Tensor],
    watch: Watch,
    advance: Callable[[int], None],
) -> None:
    with _watching(model, watch):
        for sequence in sequences:
            model(sequence, use_cache=False, logits_to_keep=1)
            advance(1)


@contextmanager
def _watching(model: LlamaForCausalLM, watch: Watch) -> Iterator[None]:
    """Call `watch` with each FFN's layer, input and activations, both [tokens, features]."""
    inputs: dict[int, Tensor] = {}
    handles = []
    for index, layer in enumerate(model.model.layers):

        def before(_module: nn.Module, given: tuple[Tensor], index: int = index) -> None:
            inputs[index] = given[0].flatten(0, -2)

        def inside(_module: nn.Module, given: tuple[Tensor], index: int = index) -> None:
            watch(index, inputs.pop(index), given[0].flatten(0, -2))

        handles.append(layer.mlp.register_forward_pre_hook(before))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(inside))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
