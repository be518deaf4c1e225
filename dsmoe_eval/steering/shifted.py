"""Differentiable shifts of routers: a shift of each (row of the batch, layer, expert).

Selection, groups and renormalisation stay the router's code, so that a gradient with respect to the
shifts is that of the model itself. Inside the context a router can also be run again on tokens with
other logits, to see what it would choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from . import router_patch
from .errors import SteeringError
from .forms import Choice
from .routers import Router
from .scoring import run_router, shifted_choice

Channel = Literal["logit", "weight", "score"]
"""What is shifted: logits before the selection, logarithms of selected weights whose sum is then
restored (`reweight`), or the correction bias, which takes part in the selection only."""


class RouterShift:
    """The shift of one router inside `shifted_routers`.

    Attributes:
        router: the router.
        logits: [tokens, experts], those of the last forward pass before the shift.
        inputs: [tokens, hidden], what the router, or its block where that selects, received then.
    """

    def __init__(self, router: Router, shift: Tensor, channel: Channel) -> None:
        self.router, self._shift = router, shift
        self.logits = self.inputs = torch.empty(0)
        self._again: Tensor | None = None
        at_weights = channel == "weight"
        self.edit = router_patch.Edit(
            logits=self._edit_logits, weights=self._edit_weights if at_weights else None
        )
        self._at_logits = not at_weights

    def see_input(self, _module: object, args: tuple[object, ...]) -> None:
        """Record what the router receives, as a hook before its forward."""
        if self._again is None and args and isinstance(args[0], Tensor):
            self.inputs = args[0].detach().flatten(0, -2)

    @torch.no_grad()
    def choose(self, tokens: Tensor, added: Tensor, channel: Channel = "logit") -> Choice:
        """Run the router again on some of the last tokens.

        Args:
            tokens: [n], indices of tokens.
            added: what is added to their logits, [n, experts]; in the channel `score` to the
                correction bias of all of them, [experts].
            channel: `logit` or `score`.

        Returns:
            Weights and indices, [n, k].

        Raises:
            SteeringError: the router has no correction bias, or it is not in memory.
        """
        bias, by_score = self.router.correction_bias, channel == "score"
        if by_score and bias is None:
            raise SteeringError(
                f"layer {self.router.layer}: this router has no correction bias to shift; "
                "take the channel of the logits"
            )
        self._again = torch.zeros_like(added[None]) if by_score else added
        try:
            with shifted_choice(bias, added) if bias is not None and by_score else nullcontext():
                return run_router(self.router, self.inputs[tokens])
        finally:
            self._again = None

    def _edit_logits(self, logits: Tensor) -> Tensor:
        if self._again is not None:
            # The sum is at least in the dtype of what is added.
            moved = logits.flatten(0, -2) + self._again
            return moved.to(logits.dtype).view_as(logits)
        self.logits = logits.detach().flatten(0, -2)
        if not self._at_logits:
            return logits
        rows = len(self._shift)
        wide = logits.reshape(rows, -1, logits.shape[-1]).to(self._shift.dtype)
        return (wide + self._shift.unsqueeze(1).to(logits.device)).to(logits.dtype).view_as(logits)

    def _edit_weights(self, weights: Tensor, indices: Tensor) -> Tensor:
        if self._again is not None:
            return weights
        rows, experts = self._shift.shape
        each = (
            self._shift.to(weights.device)
            .exp()
            .unsqueeze(1)
            .expand(rows, len(weights) // rows, experts)
        )
        scaled = weights * each.reshape(-1, experts).gather(-1, indices.long())
        former = weights.sum(-1, keepdim=True, dtype=scaled.dtype)
        return (scaled * (former / scaled.sum(-1, keepdim=True))).to(weights.dtype)


@contextmanager
def shifted_routers(
    routers: Sequence[Router], shift: Tensor, channel: Channel = "logit"
) -> Iterator[list[RouterShift]]:
    """Add a shift to the routers for each row of a batch, in each forward pass inside the context.

    A batch must be [rows, length], with as many rows as `shift`. Shifts of zero change no logit.

    Args:
        routers: the model's routers.
        shift: [rows, layers, experts], at least float32; may require a gradient.
        channel: `logit` or `weight`. A shift of `score` has no gradient: it moves the selection
            only.

    Yields:
        The shift of each router, in their order.

    Raises:
        SteeringError: a router is steered already, or cannot be.
    """
    for router in routers:
        if router.native_only:
            raise SteeringError(
                f"layer {router.layer}: {type(router.consumer).__name__} never calls the router, "
                "so its logits have no gradient; load the model dequantized"
            )
    shifts = [RouterShift(one, shift[:, at], channel) for at, one in enumerate(routers)]
    attached, handles = [], []
    try:
        for one in shifts:
            router_patch.attach(one.router, one.edit)
            attached.append(one.router)
            source = one.router.module if one.router.selects else one.router.block
            handles.append(source.register_forward_pre_hook(one.see_input))
        yield shifts
    finally:
        for handle in handles:
            handle.remove()
        for router in attached:
            router_patch.detach(router.module)
