"""The routing-exact form of influence: the router selects again with one expert's logit shifted.

For each (token, expert) within reach the model's router is run with that expert's logit shifted.
Only the outputs of experts that are selected then, or were before, are computed, by the model's
module of experts. A pair is out of reach where the shift can change neither selection nor weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..steering import Channel, Router, RouterShift, Scoring, SteeringError, describe_scoring
from ..steering.forms import Choice
from .outputs import Argument, Given, call_roles, given_to, run_pairs

_VALUES_AT_ONCE = 2**22
_NEAR = 1e-4
"""The least distance from the threshold, as a share of its size, up to which rounding decides."""


@dataclass(frozen=True, slots=True)
class LayerRerouting:
    """How one layer's router is shifted.

    Attributes:
        scoring: the router's rule.
        channel: what is shifted.
        step: by how much.
    """

    scoring: Scoring
    channel: Channel
    step: float

    @contextmanager
    def watching(self, shift: RouterShift, total: Tensor) -> Iterator[None]:
        """Add to `total` [texts, experts] in the backward pass of what is computed inside."""

        def called(
            _module: object, args: tuple[object, ...], kwargs: dict[str, object], output: object
        ) -> None:
            if not (isinstance(output, Tensor) and output.requires_grad):
                return  # a call without gradients, such as this module's own
            given = {
                at: value.detach() if isinstance(value, Tensor) else value
                for at, value in given_to(args, kwargs).items()
            }
            call = _Call(self, shift, given, call_roles(shift.router, given))
            output.register_hook(partial(call.add_to, total))  # type: ignore[no-untyped-call]

        handle = shift.router.consumer.register_forward_hook(called, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def reroutings(
    routers: Sequence[Router], channel: Channel, steps: Sequence[float]
) -> tuple[LayerRerouting, ...]:
    """Measure the routers' rules, and return how each is shifted.

    Raises:
        SteeringError: a router is not known, or a step is zero or missing.
    """
    if len(steps) != len(routers) or not all(steps):
        raise SteeringError(
            f"the routing-exact form needs a shift other than zero for each of {len(routers)} "
            f"layers, and {len(steps)} were given"
        )
    return tuple(
        LayerRerouting(describe_scoring(router), channel, float(step))
        for router, step in zip(routers, steps, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a layer's experts in the forward pass."""

    layer: LayerRerouting
    shift: RouterShift
    given: Given
    roles: tuple[Argument, Argument, Argument]

    @torch.no_grad()
    def add_to(self, total: Tensor, slope: Tensor) -> None:
        """Add the influence of every expert to `total`, given d(outcome)/d(experts' output)."""
        slope = slope.flatten(0, -2).to(total.dtype)
        _, indices, weights = (self.given[role] for role in self.roles)
        live = slope.abs().sum(-1) > 0
        tokens, experts = (self._reach(indices) & live.unsqueeze(1)).nonzero(as_tuple=True)
        choice = self._rerouted(tokens, experts, weights, indices)
        needed = torch.zeros(len(live), total.shape[1], dtype=torch.bool, device=slope.device)
        needed[live] = needed[live].scatter(1, indices[live].long(), True)
        needed[tokens.unsqueeze(1), choice.indices.long()] = True
        gains = self._gains(needed, slope)
        before = (weights.to(total.dtype) * gains.gather(1, indices.long())).sum(-1)
        after = choice.weights.to(total.dtype) * gains[tokens.unsqueeze(1), choice.indices.long()]
        changes = (after.sum(-1) - before[tokens]) / self.layer.step
        row = tokens // (len(live) // len(total))
        flat = (row * total.shape[1] + experts).to(total.device)
        total.view(-1).index_add_(0, flat, changes.to(total.device))

    def _reach(self, indices: Tensor) -> Tensor:
        """Return whether a shift of each expert may change a token's output, [tokens, experts]."""
        logits, scoring, step = self.shift.logits, self.layer.scoring, self.layer.step
        near = max(_NEAR, 2 * torch.finfo(logits.dtype).eps)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
        chosen = chosen.scatter(1, indices.long(), True)
        if self.layer.channel == "weight":
            return chosen
        score, bias = _choice_scores(logits, self.shift.router, scoring)
        by_score = self.layer.channel == "score"
        # Elsewhere a shift moves all scores, or the rule is not known.
        known = scoring.function != "other" and scoring.groups is None
        alone = scoring.renormalised and (scoring.function == "sigmoid" or bias is None)
        if not (known and (by_score or alone)):
            return torch.ones_like(chosen)
        least = score.masked_fill(~chosen, torch.inf).amin(-1, keepdim=True)
        moved = score + step
        if not by_score:
            moved = _choice_scores(logits + step, self.shift.router, scoring)[0]
        return chosen | (moved >= least - near * least.abs().clamp(min=1))

    def _rerouted(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, indices: Tensor
    ) -> Choice:
        """Return the choice for each pair of a token and an expert whose logit is shifted."""
        step, count = self.layer.step, self.shift.logits.shape[1]
        if self.layer.channel == "weight":
            factor = torch.where(indices[tokens] == experts.unsqueeze(1), step, 0.0).exp()
            scaled = weights[tokens] * factor
            former = weights[tokens].sum(-1, keepdim=True, dtype=scaled.dtype)
            return Choice(scaled * (former / scaled.sum(-1, keepdim=True)), indices[tokens])
        one_hot = step * torch.eye(count, device=tokens.device, dtype=torch.float64)
        if self.layer.channel == "score":
            order = experts.argsort(stable=True)
            parts = [
                self.shift.choose(tokens[experts == e], one_hot[e].float(), "score")
                for e in sorted(set(experts.tolist()))
            ]
        else:
            order, parts = None, []
            size = max(1, _VALUES_AT_ONCE // self.shift.inputs.shape[1])
            for some, of in _pieces(tokens, experts, size):
                parts.append(self.shift.choose(some, one_hot[of]))
        if not parts:
            return Choice(weights[:0], indices[:0])
        joined = [torch.cat(column) for column in zip(*parts, strict=True)]
        if order is not None:
            joined = [torch.empty_like(one).index_copy_(0, order, one) for one in joined]
        return Choice(*joined)

    @torch.no_grad()
    def _gains(self, needed: Tensor, slope: Tensor) -> Tensor:
        """Compute <g_t, f_e(t)> where it is needed, [tokens, experts]; elsewhere it is 0."""
        gains = torch.zeros(needed.shape, dtype=slope.dtype, device=slope.device)
        # By expert, so that each is called with many tokens at once.
        experts, tokens = needed.T.nonzero(as_tuple=True)
        size = max(1, _VALUES_AT_ONCE // slope.shape[1])
        for some, of in _pieces(tokens, experts, size):
            outputs = run_pairs(self.shift.router, self.given, self.roles, some, of)
            gains[some, of] = (outputs.to(slope.dtype) * slope[some]).sum(-1)
        return gains


def _pieces(tokens: Tensor, experts: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size], experts[start : start + size]


def _choice_scores(
    logits: Tensor, router: Router, scoring: Scoring
) -> tuple[Tensor, Tensor | None]:
    """Return what experts are selected by (up to what leaves their order), and the bias in it."""
    if not scoring.correction_bias or router.correction_bias is None:
        return logits, None
    scores = logits.softmax(-1) if scoring.function == "softmax" else logits.sigmoid()
    return scores + router.correction_bias.flatten().to(scores), router.correction_bias
