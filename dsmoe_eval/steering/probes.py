"""Two questions asked of every steered model before its answers count.

Null probe: with strength zero, is every output bit the same? Effect probe: does the profile change
what the experts receive, and do the outputs move? A steering that silently does nothing is the
worst failure that this software can have, so both raise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .capture import capture_routing
from .errors import ProbeError
from .profile import Profile
from .routers import Router, find_routers
from .steer import steer


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Figures of both probes.

    Attributes:
        null_max_difference: largest absolute difference of logits at strength zero; 0.0 or raised.
        selection_changed: share of (token, MoE layer) pairs whose set of experts changed.
        weight_max_change: largest absolute change of an expert's weight at the experts' input.
        logit_max_change: largest absolute change of an output logit.
        active_experts: experts that ran for each token and layer, base and steered alike.
        tokens: tokens probed, padding left out.
    """

    null_max_difference: float
    selection_changed: float
    weight_max_change: float
    logit_max_change: float
    active_experts: int
    tokens: int

    def to_dict(self) -> dict[str, float | int]:
        """For `cell.json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Pass:
    logits: Tensor  # [tokens, vocabulary]
    dense: Tensor  # [tokens, layers, experts]: the weight of each expert, 0 where not selected
    active: int


def probe(model: nn.Module, profile: Profile, input_ids: Tensor, mask: Tensor) -> ProbeReport:
    """Run both probes on a batch of real text.

    Args:
        model: not steered; it is left so.
        profile: any; one that is null by its own words must move nothing at all.
        input_ids: [batch, length].
        mask: [batch, length], 1 on tokens, 0 on padding.

    Raises:
        ProbeError: strength zero changes an output bit; a profile that is not null moves
            nothing, or a null one moves something; the number of active experts changed; the
            experts of a layer received something else than its router gave.
        SteeringError: the profile is for another model, or the model cannot be steered.
    """
    base = _forward(model, input_ids, mask)
    with steer(model, profile.with_strength(0.0)):
        null = _forward(model, input_ids, mask)
    null_difference = _largest(null.logits - base.logits)
    if null_difference != 0.0 or not torch.equal(null.dense, base.dense):
        raise ProbeError(
            f"null probe failed: at strength zero the outputs differ by {null_difference:.3g}; "
            "nothing measured on this model through this steering could be trusted"
        )
    with steer(model, profile):
        steered = _forward(model, input_ids, mask)
    report = _report(base, steered, null_difference)
    _check_effect(profile, report, base.active, steered.active)
    return report


def _report(base: _Pass, steered: _Pass, null_difference: float) -> ProbeReport:
    changed = ((base.dense > 0) != (steered.dense > 0)).any(-1)
    return ProbeReport(
        null_max_difference=null_difference,
        selection_changed=float(changed.float().mean()),
        weight_max_change=_largest(steered.dense - base.dense),
        logit_max_change=_largest(steered.logits - base.logits),
        active_experts=base.active,
        tokens=len(base.logits),
    )


def _check_effect(profile: Profile, report: ProbeReport, before: int, after: int) -> None:
    moved = report.weight_max_change > 0 and report.logit_max_change > 0
    if profile.is_null and (report.weight_max_change > 0 or report.logit_max_change > 0):
        raise ProbeError(f"profile {profile.id} should change nothing and moves the outputs")
    if not profile.is_null and not moved:
        raise ProbeError(
            f"effect probe failed: profile {profile.id} ({profile.intervention.kind}, strength "
            f"{profile.intervention.strength:g}, {len(profile.experts)} experts) changes neither "
            "the experts' input nor the outputs of this model: it would be a silent no-op"
        )
    if before != after:
        raise ProbeError(
            f"profile {profile.id}: {after} experts run for a token where {before} did before"
        )


@torch.no_grad()
def _forward(model: nn.Module, input_ids: Tensor, mask: Tensor) -> _Pass:
    routers = find_routers(model)
    with capture_routing(routers) as routing, _router_outputs(routers) as given:
        logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
    indices, weights = routing.indices(), routing.weights()
    for place, router in enumerate(routers):
        _check_obeyed(router, given.get(router.layer), weights[:, place], indices[:, place])
    kept = mask.flatten().bool()
    indices, weights = indices[kept], weights[kept].float()
    dense = torch.zeros(*indices.shape[:2], max(router.experts for router in routers))
    dense = dense.to(weights.device).scatter_(-1, indices.long(), weights)
    return _Pass(logits.flatten(0, 1)[kept], dense, indices.shape[-1])


@contextmanager
def _router_outputs(routers: Sequence[Router]) -> Iterator[dict[int, Any]]:
    """What each router returned, by layer."""
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


def _check_obeyed(router: Router, given: Any, weights: Tensor, indices: Tensor) -> None:
    """A fused path that never calls the router's forward would leave one layer unsteered."""
    if given is None or not (torch.equal(given[1], weights) and torch.equal(given[2], indices)):
        raise ProbeError(
            f"layer {router.layer}: the experts did not receive what {router.name!r} gave; "
            "steering that router does nothing there"
        )


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
