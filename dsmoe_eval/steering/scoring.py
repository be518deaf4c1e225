"""A router's scoring rule, and the interventions that keep their definition under it.

`Scoring` is a router's rule from logits to (weights, indices). It is measured, not looked up by
name: the router is run on random input and its output is compared with the known rules. Where the
definition of an intervention does not apply to a rule, `check_meaning` raises with the reason;
nothing is approximated silently.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """

    function: ScoreFunction
    renormalised: bool
    correction_bias: bool
    shift_invariant: bool
    groups: Groups | None = None

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
class _Sample:
    logits: Tensor  # [tokens, experts]
    weights: Tensor  # [tokens, k]
    indices: Tensor  # [tokens, k]


def describe_scoring(router: Router) -> Scoring:
    """Measure a router's scoring rule on random input, through its patch; restore the router.

    Raises:
        SteeringError: the patch is not reached, or a bias over the experts is no correction bias.
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
            groups=_groups(router, hidden, plain),
        )


def check_meaning(
    intervention: Intervention,
    chosen: Sequence[ChosenExpert],
    scoring: Scoring,
    experts: int,
    top_k: int,
) -> None:
    """Check that the definition of an intervention applies to a layer's scoring rule.

    Raises:
        SteeringError: it does not; the message has the reason and what to use instead.
    """
    kind = intervention.kind
    if intervention.channel == "score" and not scoring.correction_bias:
        raise SteeringError(
            "bias in the score channel needs a router that chooses by score + correction bias; "
            "this router does not, so use the logit channel"
        )
    if kind == "mask" and experts - len(chosen) < top_k:
        raise SteeringError(
            f"mask of {len(chosen)} of {experts} experts leaves fewer than the {top_k} that every "
            "token needs; mask fewer"
        )
    if kind == "mask" and scoring.groups and scoring.groups.leaks:
        raise SteeringError(
            "mask cannot be kept by this router: it gives the experts of groups that a token does "
            "not keep the score 0, above kept ones whose correction bias makes them negative, so "
            "that masked experts would be selected; use bias in the score channel instead"
        )
    if kind == "mask" and scoring.groups:
        # With a correction bias of -inf, the sum of a group's two best scores is -inf as well where
        # only one expert is left: such a group is kept only if there are too few others.
        needed = 2 if scoring.correction_bias else 1
        _check_left(kind, chosen, scoring.groups, experts, top_k, needed)
    if kind != "force":
        return
    if not scoring.shift_invariant:
        raise SteeringError(
            "force is defined on log_softmax of the logits, but the constant that log_softmax "
            "subtracts changes this router's output; use bias instead"
        )
    if scoring.correction_bias:
        raise SteeringError(
            "force puts a logit above all others, which does not force a router that chooses by "
            "score + correction bias; use bias in the score channel instead"
        )
    active = sum(expert.activate for expert in chosen)
    if active > top_k or len(chosen) - active > experts - top_k:
        raise SteeringError(
            f"force cannot activate {active} experts and deactivate {len(chosen) - active} in a "
            f"layer that selects {top_k} of {experts}; force fewer"
        )
    if scoring.groups:
        _check_kept(chosen, scoring.groups, experts)
        _check_left(kind, chosen, scoring.groups, experts, top_k, 1)


def _check_kept(chosen: Sequence[ChosenExpert], groups: Groups, experts: int) -> None:
    """Check that the groups of all activated experts are kept for every token."""
    active = Counter(
        expert.expert * groups.count // experts for expert in chosen if expert.activate
    )
    alone = [] if groups.by_best else [group for group, number in active.items() if number < 2]
    if len(active) > groups.kept or alone:
        raise SteeringError(
            f"force cannot activate experts of {len(active)} groups in a router that keeps "
            f"{groups.kept} of {groups.count} groups"
            + (", each by the sum of its two best scores" if alone else "")
            + "; force experts of fewer groups"
            + (", at least two of each" if alone else "")
        )


def _check_left(
    kind: str,
    chosen: Sequence[ChosenExpert],
    groups: Groups,
    experts: int,
    top_k: int,
    needed: int,
) -> None:
    """Check that the groups that a token keeps always have enough experts that are not excluded.

    Args:
        kind: of the intervention: `mask` excludes all chosen experts, `force` those not activated.
        chosen: the experts of the layer.
        groups: the router's.
        experts: their number in the layer.
        top_k: how many a token selects.
        needed: experts that must be left in a group, so that it is rated above an empty one.
    """
    left = [experts // groups.count] * groups.count
    sure = set()
    for expert in chosen:
        group = expert.expert * groups.count // experts
        if kind == "mask" or not expert.activate:
            left[group] -= 1
        else:
            sure.add(group)
    others = [number for group, number in enumerate(left) if group not in sure]
    others.sort(key=lambda number: (number < needed, number))
    fewest = sum(left[group] for group in sure) + sum(others[: groups.kept - len(sure)])
    if fewest < top_k:
        raise SteeringError(
            f"{kind} leaves as few as {fewest} experts in the {groups.kept} of {groups.count} "
            f"groups from which this router selects a token's {top_k}, so that it would select "
            f"excluded ones; {kind} fewer experts of a group"
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
    """Draw input [tokens, hidden] whose logits have a standard deviation of about 2.

    With such logits the scores are neither flat nor saturated.
    """
    weight = router.weight
    generator = torch.Generator().manual_seed(_SEED)
    hidden = torch.randn(_TOKENS, weight.shape[1], generator=generator)
    hidden = hidden.to(device=router.device, dtype=weight.dtype)
    spread = float(_sample(router, hidden).logits.std())
    if spread == 0:
        raise SteeringError(f"router {router.name!r} returns the same logits for every token")
    return hidden * (_SPREAD / spread)


def _sample(router: Router, hidden: Tensor, shift: float = 0.0) -> _Sample:
    """Run the router on `hidden`, with its logits in float32 and `shift` added to all of them."""
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
            f"router {router.name!r}: its forward did not call the patched linear layer once"
        )
    weights, indices = router_patch.routing_of(output, router.name)
    return _Sample(seen[0].reshape(_TOKENS, -1), output[weights], output[indices])


def _call(router: Router, hidden: Tensor) -> Any:
    """Call the router's forward without hooks.

    Some routers take [batch, length, hidden], and some take their correction bias as an argument.
    """
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
        # Raw scores times a constant, or scores divided by their sum per token.
        if _constant(ratio, tolerance) or _constant(ratio / ratio[:, :1], tolerance):
            return name
    return "other"


def _sigmoid(logits: Tensor, _dim: int) -> Tensor:
    return logits.sigmoid()


def _constant(values: Tensor, tolerance: float) -> bool:
    return bool((values / values.mean() - 1).abs().max() <= tolerance)


def _same(a: _Sample, b: _Sample, tolerance: float) -> bool:
    first, second = (
        torch.zeros(*sample.logits.shape, device=sample.logits.device).scatter(
            -1, sample.indices.long(), sample.weights.float()
        )
        for sample in (a, b)
    )
    return bool(((first - second).abs() <= tolerance).all())


def _groups(router: Router, hidden: Tensor, sample: _Sample) -> Groups | None:
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
        return bool((_sample(router, hidden).indices >= first).any())


def _chooses_by_bias(router: Router, hidden: Tensor) -> bool:
    """Check whether a raised entry of the correction bias selects that expert for every token."""
    bias = router.correction_bias
    if bias is None or bias.is_meta:
        return bias is not None  # offloaded: cannot be measured, and `shifted_choice` raises
    with shifted_choice(bias, torch.zeros(router.experts).index_fill(0, torch.tensor([0]), 100.0)):
        raised = _sample(router, hidden)
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
    with torch.no_grad():
        bias.copy_((saved.float() + shift.to(bias.device).view_as(saved)).to(bias.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            bias.copy_(saved)
