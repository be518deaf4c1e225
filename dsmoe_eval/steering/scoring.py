"""How a router scores, and which interventions keep their meaning under it.

`Scoring` is a router's rule from logits to (weights, indices), found by trying the router out, not
by its name: random input, and what came of it compared with the rules that there are. Where an
intervention's meaning does not carry over to a rule, `check_meaning` refuses by name; nothing is
approximated silently.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import router_patch
from .errors import SteeringError
from .profile import ChosenExpert, Intervention
from .routers import Router

ScoreFunction = Literal["softmax", "sigmoid", "other"]

_TOKENS, _SEED, _SPREAD = 64, 0, 2.0
_SHIFT = 16.0
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 4e-2


@dataclass(frozen=True, slots=True)
class Scoring:
    """A router's rule.

    Attributes:
        function: `softmax` or `sigmoid` of the logits, or `other` (as Phi's sparsemixer).
        renormalised: whether a token's weights have a constant sum. A softmax over the selected
            logits alone is the same as a renormalised softmax over all.
        correction_bias: whether the choice, not the weight, is by score + a bias of the router.
        shift_invariant: whether a constant added to all logits changes nothing.
    """

    function: ScoreFunction
    renormalised: bool
    correction_bias: bool
    shift_invariant: bool

    def __str__(self) -> str:
        words = [
            self.function,
            "renormalised" if self.renormalised else "not renormalised",
            *(["with a correction bias"] if self.correction_bias else []),
            *([] if self.shift_invariant else ["not blind to a constant shift"]),
        ]
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class _Sample:
    logits: Tensor  # [tokens, experts]
    weights: Tensor  # [tokens, k]
    indices: Tensor  # [tokens, k]


def describe_scoring(router: Router) -> Scoring:
    """Try a router out, through its patch, and say how it scores; it is left as it was.

    Raises:
        SteeringError: the patch is not reached, or what looks like a correction bias is none.
    """
    with router.loaded(), _evaluating(router.module), torch.no_grad():
        hidden = _hidden(router)
        plain = _sample(router, hidden)
        shifted = _sample(router, hidden, _SHIFT)
        tolerance = _TOLERANCE.get(plain.weights.dtype, _HALF_TOLERANCE)
        sums = plain.weights.float().sum(-1)
        return Scoring(
            function=_function(plain, tolerance),
            renormalised=_constant(sums, tolerance),
            correction_bias=_chooses_by_bias(router, hidden),
            shift_invariant=_same(plain, shifted, tolerance),
        )


def check_meaning(
    intervention: Intervention,
    chosen: Sequence[ChosenExpert],
    scoring: Scoring,
    experts: int,
    top_k: int,
) -> None:
    """Refuse an intervention on one layer that would not mean there what its definition says.

    Raises:
        SteeringError: with the intervention, the reason, and what to use instead.
    """
    kind = intervention.kind
    if intervention.channel == "score" and not scoring.correction_bias:
        raise SteeringError(
            "bias in the score channel needs a router that chooses by score + correction bias, and "
            "this one does not; use the logit channel"
        )
    if kind == "mask" and experts - len(chosen) < top_k:
        raise SteeringError(
            f"mask of {len(chosen)} of {experts} experts leaves fewer than the {top_k} that every "
            "token needs; mask fewer"
        )
    if kind != "force":
        return
    if not scoring.shift_invariant:
        raise SteeringError(
            "force is defined on log_softmax of the logits, and this router is not blind to the "
            "constant that it subtracts, so that force would mean something else; use bias instead"
        )
    if scoring.correction_bias:
        raise SteeringError(
            "force puts a logit above all others, which does not decide where a router chooses by "
            "score + correction bias; use bias in the score channel instead"
        )
    active = sum(one.activate for one in chosen)
    if active > top_k or len(chosen) - active > experts - top_k:
        raise SteeringError(
            f"force cannot put {active} experts in and {len(chosen) - active} out where {top_k} of "
            f"{experts} are selected"
        )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.training = False
    try:
        yield
    finally:
        module.training = training


def _hidden(router: Router) -> Tensor:
    """Input [tokens, hidden] that spreads the logits by about two: neither flat nor saturated."""
    weight = router.weight
    generator = torch.Generator().manual_seed(_SEED)
    hidden = torch.randn(_TOKENS, weight.shape[1], generator=generator)
    hidden = hidden.to(device=router.device, dtype=weight.dtype)
    spread = float(_sample(router, hidden).logits.std())
    if spread == 0:
        raise SteeringError(f"router {router.name!r} gives the same logits for every token")
    return hidden * (_SPREAD / spread)


def _sample(router: Router, hidden: Tensor, shift: float = 0.0) -> _Sample:
    """What the router makes of `hidden`, with its logits in float32 and `shift` added to all."""
    seen: list[Tensor] = []

    def note(logits: Tensor) -> Tensor:
        seen.append(logits.float())
        return seen[-1] + shift

    router_patch.attach(router.module, router_patch.Edit(note, lambda weights, _indices: weights))
    try:
        output = _call(router, hidden)
    finally:
        router_patch.detach(router.module)
    if len(seen) != 1:
        raise SteeringError(
            f"router {router.name!r}: its linear was not reached through the router patch"
        )
    weights, indices = router_patch.routing_of(output, router.name)
    return _Sample(seen[0].reshape(_TOKENS, -1), output[weights], output[indices])


def _call(router: Router, hidden: Tensor) -> Any:
    """The router's forward, without hooks; some want [batch, length, hidden], some their bias."""
    names = list(inspect.signature(type(router.module).forward).parameters)[2:]
    extra = [router.correction_bias] if names and router.correction_bias is not None else []
    try:
        return router.module.forward(hidden, *extra)
    except (ValueError, IndexError, TypeError):
        return router.module.forward(hidden[None], *extra)


def _function(sample: _Sample, tolerance: float) -> ScoreFunction:
    logits, kept = sample.logits, sample.weights.float()
    rules: dict[ScoreFunction, Any] = {"softmax": Tensor.softmax, "sigmoid": _sigmoid}
    for name, rule in rules.items():
        ratio = kept / rule(logits, -1).gather(-1, sample.indices.long())
        # Raw scores times a constant, or each token's scores divided by their own sum.
        if _constant(ratio, tolerance) or _constant(ratio / ratio[:, :1], tolerance):
            return name
    return "other"


def _sigmoid(logits: Tensor, _dim: int) -> Tensor:
    return logits.sigmoid()


def _constant(values: Tensor, tolerance: float) -> bool:
    return bool((values / values.mean() - 1).abs().max() <= tolerance)


def _same(one: _Sample, other: _Sample, tolerance: float) -> bool:
    first, second = (
        torch.zeros(*sample.logits.shape, device=sample.logits.device).scatter(
            -1, sample.indices.long(), sample.weights.float()
        )
        for sample in (one, other)
    )
    return bool(((first - second).abs() <= tolerance).all())


def _chooses_by_bias(router: Router, hidden: Tensor) -> bool:
    """Whether raising one entry of the correction bias puts that expert in for every token."""
    bias = router.correction_bias
    if bias is None or bias.is_meta:
        return bias is not None  # offloaded: not to be tried out, and `shifted_choice` refuses it
    with shifted_choice(bias, torch.zeros(router.experts).index_fill(0, torch.tensor([0]), 100.0)):
        raised = _sample(router, hidden)
    if not bool((raised.indices == 0).any(-1).all()):
        raise SteeringError(
            f"router {router.name!r} holds a bias over its experts that does not act as a "
            "correction of the choice; this version cannot steer it"
        )
    return True


@contextmanager
def shifted_choice(bias: Tensor, shift: Tensor) -> Iterator[None]:
    """The correction bias with `shift` [experts] added, computed in float32; put back bit for bit.

    Raises:
        SteeringError: the bias is not in memory (accelerate has offloaded it).
    """
    if bias.is_meta:
        raise SteeringError("the router's correction bias is offloaded; keep it on a device")
    saved = bias.detach().clone()
    with torch.no_grad():
        bias.copy_((saved.float() + shift.to(bias.device).view_as(saved)).to(bias.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            bias.copy_(saved)
