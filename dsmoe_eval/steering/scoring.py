"""A router's scoring rule.

`Scoring` is a router's rule from logits to (weights, indices). It is measured, not looked up by
name: the router is run on random input and its output is compared with the known rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import router_patch
from .errors import SteeringError
from .forms import Choice, read
from .routers import Router

ScoreFunction = Literal["softmax", "sigmoid", "other"]

_TOKENS, _SEED, _SPREAD = 64, 0, 2.0
_SHIFT = 16.0
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 4e-2


@dataclass(frozen=True, slots=True)
class Groups:
    """Equal groups of consecutive experts; a token's experts come from some of the groups.

    Attributes:
        count: number of groups.
        kept: number of groups that a token keeps.
        by_best: whether a group is rated by its best score; else by the sum of its two best ones.
        leaks: whether experts of other groups are selected where all kept ones score below 0.
    """

    count: int
    kept: int
    by_best: bool
    leaks: bool = field(default=False, compare=False)  # a layer's bias decides it


@dataclass(frozen=True, slots=True)
class Scoring:
    """The scoring rule of a router.

    Attributes:
        function: `softmax` or `sigmoid` of the logits, or `other` (such as Phi's sparsemixer).
        renormalised: whether a token's weights have a constant sum. A softmax over the selected
            logits alone is the same as a renormalised softmax over all.
        correction_bias: whether experts are chosen (not weighted) by score + a bias of the router.
        shift_invariant: whether a constant added to all logits changes nothing.
        groups: the groups that limit the choice, or None.
        logits_dtype: the name of the dtype in which the linear layer computes the logits.
    """

    function: ScoreFunction
    renormalised: bool
    correction_bias: bool
    shift_invariant: bool
    groups: Groups | None = None
    logits_dtype: str = field(default="float32", compare=False)

    def __str__(self) -> str:
        words = [
            self.function,
            "renormalised" if self.renormalised else "not renormalised",
            *(["with a correction bias"] if self.correction_bias else []),
            *([] if self.shift_invariant else ["changed by a constant shift"]),
            *([f"from {self.groups.kept} of {self.groups.count} groups"] if self.groups else []),
        ]
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Sample:
    """A router's logits, computed in `dtype` and then in float32, and its choice by them."""

    dtype: torch.dtype
    logits: Tensor  # [tokens, experts]
    weights: Tensor  # [tokens, k]
    indices: Tensor  # [tokens, k]


def describe_scoring(router: Router) -> Scoring:
    """Measure a router's scoring rule on random input, through its patch; restore the router.

    Raises:
        SteeringError: the patch is not reached, or a bias over the experts is no correction bias.
    """
    with router.loaded(), evaluating(router.module), torch.no_grad():
        hidden = spread_input(router)
        plain = try_out(router, hidden)
        shifted = try_out(router, hidden, _SHIFT)
        tolerance = tolerance_of(plain.weights)
        sums = plain.weights.float().sum(-1)
        return Scoring(
            function=_function(plain, tolerance),
            renormalised=_constant(sums, tolerance),
            correction_bias=_chooses_by_bias(router, hidden),
            shift_invariant=_same(plain, shifted, tolerance),
            groups=_groups(router, hidden, plain),
            logits_dtype=str(plain.dtype).removeprefix("torch."),
        )


def logits_dtype(router: Router) -> torch.dtype:
    """Return the dtype in which the router's linear layer computes its logits.

    Raises:
        SteeringError: as in `describe_scoring`.
    """
    with router.loaded(), evaluating(router.module), torch.no_grad():
        return try_out(router, _noise(router)).dtype


def tolerance_of(weights: Tensor) -> float:
    """Return by what share weights of this dtype may differ that are equal but for rounding."""
    return _TOLERANCE.get(weights.dtype, _HALF_TOLERANCE)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation inside the context."""
    training = module.training
    module.training = False
    try:
        yield
    finally:
        module.training = training


def _noise(router: Router) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    hidden = torch.randn(_TOKENS, router.weight.shape[1], generator=generator)
    return hidden.to(device=router.device, dtype=router.weight.dtype)


def spread_input(router: Router) -> Tensor:
    """Draw input [tokens, hidden] whose logits have a standard deviation of about 2.

    With such logits the scores are neither flat nor saturated.

    Raises:
        SteeringError: the router returns the same logits for every token.
    """
    hidden = _noise(router)
    spread = float(try_out(router, hidden).logits.std())
    if spread == 0:
        raise SteeringError(f"router {router.name!r} returns the same logits for every token")
    return hidden * (_SPREAD / spread)


def try_out(
    router: Router,
    hidden: Tensor,
    shift: float = 0.0,
    selected: router_patch.Selected | None = None,
) -> Sample:
    """Run the router on `hidden`, with its logits in float32 and `shift` added to all of them.

    Args:
        router: the router, not steered.
        hidden: [tokens, hidden].
        shift: added to all logits.
        selected: an edit of what it selects.

    Raises:
        SteeringError: the patch is not reached.
    """
    seen: list[Tensor] = []
    computed: list[torch.dtype] = []

    def note(logits: Tensor) -> Tensor:
        computed.append(logits.dtype)
        seen.append(logits.float())
        return seen[-1] + shift

    router_patch.attach(router, router_patch.Edit(logits=note, selected=selected))
    try:
        choice = run_router(router, hidden)
    finally:
        router_patch.detach(router.module)
    if len(seen) != 1:
        raise SteeringError(
            f"router {router.name!r}: its forward did not call the patched linear layer once"
        )
    logits = seen[0].reshape(_TOKENS, -1)
    return Sample(computed[0], logits, choice.weights, choice.indices)


def run_router(router: Router, hidden: Tensor) -> Choice:
    """Call the router's forward without hooks, or its block where that selects.

    Some routers take [batch, length, hidden], and some take their correction bias as an argument.

    Args:
        router: the router; edits that are attached to it apply.
        hidden: [tokens, hidden].
    """
    if not router.selects:
        return _call_block(router, hidden)
    names = list(inspect.signature(type(router.module).forward).parameters)[2:]
    extra = [router.correction_bias] if names and router.correction_bias is not None else []
    try:
        output = router.module.forward(hidden, *extra)
    except (ValueError, IndexError, TypeError):
        output = router.module.forward(hidden[None], *extra)
    return read(router, output)


class _Stop(Exception):  # noqa: N818 - not an error: the experts need not run
    """The end of a block's forward, with what its experts would have received."""


def _call_block(router: Router, hidden: Tensor) -> Choice:
    def stop(_module: nn.Module, args: Any, kwargs: Any) -> None:
        given, weights, indices = router_patch.experts_input(router, args, kwargs)
        raise _Stop(Choice(given[weights], given[indices]))

    handle = router.consumer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        router.block(hidden[None])
    except _Stop as seen:
        choice: Choice = seen.args[0]
        return choice
    finally:
        handle.remove()
    raise SteeringError(f"layer {router.layer}: its block did not call the experts")


def _function(sample: Sample, tolerance: float) -> ScoreFunction:
    logits, kept = sample.logits, sample.weights.float()
    rules: dict[ScoreFunction, Any] = {"softmax": Tensor.softmax, "sigmoid": _sigmoid}
    for name, rule in rules.items():
        ratio = kept / rule(logits, -1).gather(-1, sample.indices.long())
        # Raw scores times a constant, or scores divided by their sum per token: a single score
        # divided by itself would be of any rule.
        several = ratio.shape[-1] > 1
        if _constant(ratio, tolerance) or (several and _constant(ratio / ratio[:, :1], tolerance)):
            return name
    return "other"


def _sigmoid(logits: Tensor, _dim: int) -> Tensor:
    return logits.sigmoid()


def _constant(values: Tensor, tolerance: float) -> bool:
    return bool((values / values.mean() - 1).abs().max() <= tolerance)


def _same(a: Sample, b: Sample, tolerance: float) -> bool:
    first, second = (
        torch.zeros(*sample.logits.shape, device=sample.logits.device).scatter(
            -1, sample.indices.long(), sample.weights.float()
        )
        for sample in (a, b)
    )
    return bool(((first - second).abs() <= tolerance).all())


def _groups(router: Router, hidden: Tensor, sample: Sample) -> Groups | None:
    """Return the groups that the router's attributes name, where its choice keeps to them."""
    count, kept = (getattr(router.module, name, None) or 0 for name in ("num_group", "topk_group"))
    if not 0 < kept < count:
        return None
    by_group = sample.logits.reshape(_TOKENS, count, -1)
    size = by_group.shape[-1]
    if _leaks(router, hidden, kept * size):
        return Groups(count, kept, by_best=False, leaks=True)
    group = sample.indices.long() // size
    used = torch.zeros(_TOKENS, count, device=group.device).scatter(-1, group, 1.0)
    if float(used.sum(-1).max()) > kept:
        return None
    best = used.gather(-1, by_group.amax(-1).topk(kept).indices).sum(-1)
    return Groups(count, kept, router.correction_bias is None and torch.equal(best, used.sum(-1)))


def _leaks(router: Router, hidden: Tensor, first: int) -> bool:
    """Check whether a negative score of the `first` experts, a token's groups, selects others."""
    bias = router.correction_bias
    if bias is None or bias.is_meta or float(bias.min()) >= 0:
        return False
    shift = torch.full((router.experts,), -100.0)
    shift[:first] = -50.0
    with shifted_choice(bias, shift):
        return bool((try_out(router, hidden).indices >= first).any())


def _chooses_by_bias(router: Router, hidden: Tensor) -> bool:
    """Check whether a raised entry of the correction bias selects that expert for every token."""
    bias = router.correction_bias
    if bias is None or bias.is_meta:
        return bias is not None  # offloaded: cannot be measured, and `shifted_choice` raises
    with shifted_choice(bias, torch.zeros(router.experts).index_fill(0, torch.tensor([0]), 100.0)):
        raised = try_out(router, hidden)
    if not bool((raised.indices == 0).any(-1).all()):
        raise SteeringError(
            f"router {router.name!r} has a bias over its experts that does not decide its "
            "choice; this version cannot steer it"
        )
    return True


@contextmanager
def shifted_choice(bias: Tensor, shift: Tensor) -> Iterator[None]:
    """Add `shift` [experts] to the correction bias inside the context, computed in float32.

    Afterwards the bias is restored to the bit.

    Raises:
        SteeringError: the bias is not in memory (accelerate has offloaded it).
    """
    if bias.is_meta:
        raise SteeringError("the router's correction bias is offloaded; keep it on a device")
    saved = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.copy_((saved.float() + shift.to(bias.device).view_as(saved)).to(bias.dtype))
        yield
    finally:
        with torch.no_grad():
            bias.copy_(saved)
