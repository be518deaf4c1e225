"""Capture which experts really ran for every token, and with which weights.

Both are read at the experts' input, because a router may return other logits than those it used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import router_patch
from .errors import ProbeError, SteeringError
from .router_patch import routing_of
from .routers import Router


@dataclass(slots=True)
class Routing:
    """The routing of the last forward pass, per layer."""

    layers: tuple[int, ...]
    _indices: dict[int, Tensor] = field(default_factory=dict)
    _weights: dict[int, Tensor] = field(default_factory=dict)

    def indices(self) -> Tensor:
        """Return the selected experts, [tokens, layers, k].

        The tokens axis runs over batch and position and includes padding.

        Raises:
            SteeringError: the experts of a layer did not run.
        """
        return self._stack(self._indices)

    def weights(self) -> Tensor:
        """Return the weights that the selected experts received, [tokens, layers, k].

        Raises:
            SteeringError: the experts of a layer did not run.
        """
        return self._stack(self._weights)

    def _stack(self, by_layer: dict[int, Tensor]) -> Tensor:
        missing = [layer for layer in self.layers if layer not in by_layer]
        if missing:
            raise SteeringError(
                f"no routing was recorded in layers {missing}: the experts did not run"
            )
        return torch.stack([by_layer[layer] for layer in self.layers], dim=1)


@contextmanager
def capture_routing(routers: Sequence[Router]) -> Iterator[Routing]:
    """Record the routing of each forward pass inside the context; the last pass is kept."""
    routing = Routing(tuple(router.layer for router in routers))
    handles = [
        router.consumer.register_forward_pre_hook(_recorder(routing, router), with_kwargs=True)
        for router in routers
    ]
    try:
        yield routing
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_spread(routers: Sequence[Router]) -> Iterator[Callable[[], Tensor]]:
    """Record the standard deviation over experts of every token's logits, in each layer.

    The routers compute the same bits. They must not be steered.

    Yields:
        A function that returns the last forward pass's, [tokens, layers] float32, in the order of
        the routers.
    """
    seen: dict[int, Tensor] = {}

    def edit(layer: int) -> router_patch.Edit:
        def logits(values: Tensor) -> Tensor:
            seen[layer] = logit_spread(values).flatten()
            return values

        return router_patch.Edit(logits, lambda weights, _indices: weights)

    attached = []
    try:
        for router in routers:
            router_patch.attach(router.module, edit(router.layer))
            attached.append(router)
        yield lambda: torch.stack([seen[router.layer] for router in routers], dim=1)
    finally:
        for router in attached:
            router_patch.detach(router.module)


def logit_spread(logits: Tensor) -> Tensor:
    """Compute the standard deviation over experts (of all, not of a sample) of each token's logits.

    Args:
        logits: [..., experts], any float dtype.

    Returns:
        [...], float32.
    """
    return logits.detach().float().std(-1, correction=0)


def _recorder(routing: Routing, router: Router) -> Any:
    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        chosen = [value for value in tensors if value.shape[-1] == router.top_k and value.ndim == 2]
        indices = [value for value in chosen if not value.is_floating_point()]
        weights = [value for value in chosen if value.is_floating_point()]
        if len(indices) != 1 or not weights:
            raise SteeringError(
                f"layer {router.layer}: the experts' input does not hold one index tensor "
                "and one weight tensor of shape [tokens, k]; this version cannot read its routing"
            )
        routing._indices[router.layer] = indices[0].detach()
        routing._weights[router.layer] = weights[-1].detach()

    return record


@contextmanager
def router_outputs(routers: Sequence[Router]) -> Iterator[dict[int, Any]]:
    """Record the output of each router inside the context, by layer."""
    given: dict[int, Any] = {}
    handles = [
        router.module.register_forward_hook(
            lambda _module, _args, output, layer=router.layer: given.update({layer: output})
        )
        for router in routers
    ]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def check_obeyed(router: Router, given: Any, weights: Tensor, indices: Tensor) -> None:
    """Check that the experts received the router's output.

    A fused kernel that never calls the router's forward would leave the layer unsteered.

    Raises:
        ProbeError: they did not.
    """
    if given is not None:
        weights_at, indices_at = routing_of(given, router.name)
        if torch.equal(given[weights_at], weights) and torch.equal(given[indices_at], indices):
            return
    raise ProbeError(
        f"layer {router.layer}: the experts did not receive the output of {router.name!r}, so "
        "steering that router has no effect"
    )
