"""Capture which experts really ran for every token, and with which weights.

Both are read at the experts' input, because a router may return other logits than those it used.
Experts that do not receive them (see `forms.py`) must receive what they say.
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
from .forms import Choice, read, received
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

    def record(self, layer: int, indices: Tensor, weights: Tensor) -> None:
        """Store what the tokens selected in a layer, [tokens, k] each."""
        self._indices[layer], self._weights[layer] = indices.detach(), weights.detach()

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
    handles = []
    for router in routers:
        recorder = _Recorder(routing, router)
        handles += [
            router.module.register_forward_hook(recorder.given),
            router.consumer.register_forward_pre_hook(recorder.experts, with_kwargs=True),
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

        return router_patch.Edit(logits=logits)

    attached = []
    try:
        for router in routers:
            router_patch.attach(router, edit(router.layer))
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


class _Recorder:
    """The hooks of one layer, in the order of their calls: router, experts."""

    def __init__(self, routing: Routing, router: Router) -> None:
        self.routing, self.router = routing, router
        self.call: tuple[Tensor, Any] | None = None

    def given(self, _module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.call = (args[0], output) if args and isinstance(args[0], Tensor) else None

    def experts(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        call, self.call = self.call, None
        choice = None if call is None else received(self.router, *call, args)
        if choice is None:
            given, weights, indices = router_patch.experts_input(self.router, args, kwargs)
            choice = Choice(given[weights], given[indices])
        self.routing.record(self.router.layer, choice.indices, choice.weights)


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

    A fused kernel that never calls the router's forward would leave the layer unsteered. Where the
    block selects by the router's logits, the experts must be those with the largest.

    Raises:
        ProbeError: they did not.
    """
    if given is not None and not router.selects:
        if _are_best(given, indices):
            return
    elif given is not None:
        choice = read(router, given)
        if torch.equal(choice.weights, weights) and torch.equal(choice.indices, indices):
            return
    raise ProbeError(
        f"layer {router.layer}: the experts did not receive the output of {router.name!r}, so "
        "steering that router has no effect"
    )


def _are_best(logits: Tensor, indices: Tensor) -> bool:
    """Check that no other expert has a larger logit than the selected ones.

    A block that selects by the scores of these logits may see a tie where rounding made one.
    """
    logits = logits.reshape(-1, logits.shape[-1])
    worst = logits.gather(-1, indices).amin(-1)
    others = logits.scatter(-1, indices, -torch.inf).amax(-1)
    step = 4 * torch.finfo(logits.dtype).eps
    return bool((worst >= others - step * others.abs().clamp(min=1)).all())
