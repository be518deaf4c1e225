"""Probes that every steered model must pass before its answers are used.

- Null probe: at strength zero every output bit is the same.
- Effect probe: the profile changes what the experts receive, and the outputs change (for `residual`
  only these, since no expert may follow its vector).
- Kind, of experts: the number of experts per token is unchanged, a masked expert never runs, a
  forced one runs for every token, `reweight` and `amplify` leave the selection unchanged, and
  `residual` moves the hidden states after its first layer by strength times its vector.
- Kind, of neurons: in the first steered layer the chosen ones reach the down projection multiplied,
  and the others unchanged.

Steering that silently does nothing is the worst failure of this software, so every failure raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .capture import capture_routing, check_obeyed, router_outputs
from .choices import UnitChoice, check_kind
from .errors import ProbeError, SteeringError
from .neurons import capture_sizes, find_neurons
from .profile import Profile
from .residual import check_moved, recorded
from .sites import find_sites, neurons_of, routers_of
from .steer import Measured, Steering
from .units import Sites
from .zero_bias import zero_biases

_LOGITS_AT_ONCE = 2**26
"""Logits of one part of the texts: a quarter of a GiB in float32, in each of the three passes."""
_LOGITS_KEPT = 2**25
"""Logits of base's pass over one part; a larger pass is computed again for each profile."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The figures of the probes; None where the experts' input cannot be read (MXFP4 kernels).

    Attributes:
        null_max_difference: largest absolute difference of logits at strength zero; always 0.0.
        selection_changed: share of (token, MoE layer) pairs whose set of experts changed.
        weight_max_change: largest absolute change of an expert's weight at the experts' input.
        logit_max_change: largest absolute change of an output logit.
        active_experts: experts that ran per token and layer, the same in base and steered.
        tokens: number of probed tokens, without padding.
        rounding_changed: share of (token, MoE layer) pairs that select other experts than with the
            shift of logits added in float32; None where nothing is rounded to 16 bits.
    """

    null_max_difference: float
    selection_changed: float | None
    weight_max_change: float | None
    logit_max_change: float
    active_experts: int | None
    tokens: int
    rounding_changed: float | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the figures for `cell.json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Pass:
    logits: Tensor  # [tokens, vocabulary]
    choice: UnitChoice | None


@dataclass(slots=True)
class _Part:
    """Some texts of a batch, and the results on them that earlier profiles left for reuse."""

    input_ids: Tensor
    mask: Tensor
    base: dict[Sites, _Pass] = field(default_factory=dict)
    nulls: dict[str, float] = field(default_factory=dict)  # by the id at strength zero
    states: dict[int, Tensor] = field(default_factory=dict)  # of base, by layer

    def base_of(self, model: nn.Module, sites: Sites) -> _Pass:
        if sites in self.base:
            return self.base[sites]
        base = _forward(model, sites, self.input_ids, self.mask)
        if base.logits.numel() <= _LOGITS_KEPT:
            self.base[sites] = base
        return base


def probe(model: nn.Module, profile: Profile, input_ids: Tensor, mask: Tensor) -> ProbeReport:
    """Run the probes on a batch of text, split into parts if its logits would need much memory.

    Args:
        model: the model, not steered; it is not steered afterwards.
        profile: the profile; if it is null (see `Profile.is_null`) it must change nothing.
        input_ids: [batch, length].
        mask: [batch, length], 1 on tokens, 0 on padding.

    Raises:
        ProbeError, SteeringError: as in `ModelProber.probe`.
    """
    return ModelProber(model, input_ids, mask).probe(profile)


class ModelProber:
    """The probes of many profiles on one batch of text; shared results are computed once.

    Base's pass is reused for all profiles if it is small enough to be kept. If steering was not
    removed and the model has changed since, the next null probe fails. The null probe is run once
    for all profiles that differ only in strength, since they are equal at strength zero.

    Args:
        model: as in `probe`.
        input_ids: as in `probe`.
        mask: as in `probe`.
        measured: what other steerings of the model measured of its routers.
    """

    def __init__(
        self,
        model: nn.Module,
        input_ids: Tensor,
        mask: Tensor,
        measured: Measured | None = None,
    ) -> None:
        self._model, self._measured = model, measured or Measured()
        self._parts = [_Part(ids, part_mask) for ids, part_mask in _parts(model, input_ids, mask)]

    def probe(self, profile: Profile, must_act: bool = True) -> ProbeReport:
        """Run the probes on one profile.

        Args:
            profile: the profile.
            must_act: whether a profile that changes nothing on this text is an error; it is none
                for random experts, which the text may not use.

        Raises:
            ProbeError: strength zero changes an output bit; a profile that is not null changes
                nothing, or a null one changes something; the number of active experts changed;
                the intervention did not do what its kind defines; the experts of a layer
                received something else than its router returned.
            SteeringError: the profile is for another model, or the model cannot be steered.
        """
        steering = Steering(self._model, profile, self._measured)
        with zero_biases(self._model):
            parts = [_probe_part(self._model, profile, steering, part) for part in self._parts]
        report = _joined(parts)
        moves: list[float | None] = [report.logit_max_change]
        if not profile.vectors:
            moves.append(report.weight_max_change)
        check_effect(profile, *moves if must_act else ())
        return report


def _parts(model: nn.Module, input_ids: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and mask of parts with limited logits, without columns that are all padding."""
    config: Any = model.config
    widest = max(int(config.get_text_config().vocab_size), _neurons(model))
    tokens = _LOGITS_AT_ONCE // widest
    rows = max(1, tokens // input_ids.shape[1])
    for start in range(0, len(mask), rows):
        ids, part_mask = input_ids[start : start + rows], mask[start : start + rows]
        columns = part_mask.bool().any(0)
        yield ids[:, columns], part_mask[:, columns]


def _neurons(model: nn.Module) -> int:
    """Return the number of a dense model's neurons, whose sizes a pass records; 0 of others."""
    try:
        return sum(site.width for site in find_neurons(model))
    except SteeringError:
        return 0


def _probe_part(model: nn.Module, profile: Profile, steering: Steering, part: _Part) -> ProbeReport:
    sites = profile.sites
    base, zero = part.base_of(model, sites), steering.with_strength(0.0)
    if zero.profile.id not in part.nulls:
        with zero:
            null = _forward(model, sites, part.input_ids, part.mask)
        difference = _largest(null.logits - base.logits)
        check_null(difference, _same_choice(null.choice, base.choice))
        part.nulls[zero.profile.id] = difference
    null_difference = part.nulls[zero.profile.id]
    first = [] if profile.is_null else sorted(profile.vectors)[:1]
    with steering, recorded(steering.layers, first) as states:
        steered = _forward(model, sites, part.input_ids, part.mask)
    for layer in first:
        if layer not in part.states:
            with recorded(steering.layers, first) as plain:
                _forward(model, sites, part.input_ids, part.mask)
            part.states |= plain
        check_moved(profile, layer, part.states[layer], states[layer], part.mask)
    if base.choice is not None and steered.choice is not None and not profile.is_null:
        check_kind(steering.sites, profile, base.choice, steered.choice)
    report = _report(base, steered, null_difference)
    if steered.choice is None or not steering.rounds:
        return report
    with steering.in_float32():
        exact = _forward(model, sites, part.input_ids, part.mask).choice
    return replace(report, rounding_changed=_changed(exact, steered.choice))


def _joined(parts: Sequence[ProbeReport]) -> ProbeReport:
    """Combine the reports of all parts; a single report is returned unchanged.

    Raises:
        ProbeError: the number of experts per token differs between parts.
    """
    if len(parts) == 1:
        return parts[0]
    active = {part.active_experts for part in parts}
    if len(active) > 1:
        raise ProbeError(f"tokens use {' or '.join(sorted(map(str, active)))} experts")
    tokens = sum(part.tokens for part in parts)
    changed = [part.selection_changed * part.tokens for part in parts if part.selection_changed]
    rounded = [
        part.rounding_changed * part.tokens for part in parts if part.rounding_changed is not None
    ]
    weights = [part.weight_max_change for part in parts if part.weight_max_change is not None]
    return ProbeReport(
        null_max_difference=max(part.null_max_difference for part in parts),
        selection_changed=sum(changed) / tokens if weights else None,
        weight_max_change=max(weights) if weights else None,
        logit_max_change=max(part.logit_max_change for part in parts),
        active_experts=parts[0].active_experts,
        tokens=tokens,
        rounding_changed=sum(rounded) / tokens if rounded else None,
    )


def _changed(before: UnitChoice | None, after: UnitChoice) -> float:
    assert before is not None  # noqa: S101 - what can be observed once can be again
    return float((before.selected != after.selected).any(-1).float().mean())


def _same_choice(a: UnitChoice | None, b: UnitChoice | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a.weights, b.weights) and torch.equal(a.selected, b.selected)


def _report(base: _Pass, steered: _Pass, null_difference: float) -> ProbeReport:
    if base.choice is None or steered.choice is None:
        selection = weights = active = None
    else:
        selection = _changed(base.choice, steered.choice)
        weights = _largest(steered.choice.weights - base.choice.weights)
        active = _active(base.choice, "base")
        if _active(steered.choice, "steered") != active:
            raise ProbeError(f"steering changes the number of experts ({active}) that a token uses")
    return ProbeReport(
        null_max_difference=null_difference,
        selection_changed=selection,
        weight_max_change=weights,
        logit_max_change=_largest(steered.logits - base.logits),
        active_experts=active,
        tokens=len(base.logits),
    )


def _active(choice: UnitChoice, name: str) -> int:
    counts = choice.selected.sum(-1)
    if int(counts.min()) != int(counts.max()):
        raise ProbeError(f"{name}: tokens use {int(counts.min())} to {int(counts.max())} experts")
    return int(counts.min())


def check_null(difference: float, same_choice: bool = True) -> None:
    """Check that at strength zero no output and no token's experts differ.

    This is the null probe.

    Raises:
        ProbeError: an output or the choice differs; the message has the largest difference.
    """
    if difference != 0.0 or not same_choice:
        raise ProbeError(
            f"null probe failed: at strength zero, or after steering, the outputs differ by "
            f"{difference:.3g}{'' if same_choice else ', and so does the choice of experts'}; "
            "no measurement of this model with this steering could be trusted"
        )


def check_effect(profile: Profile, *changes: float | None) -> None:
    """Check that a profile changes every observed quantity, or none if it is null.

    This is the effect probe.

    Args:
        profile: the profile that steered.
        changes: the largest change of each quantity; None where it cannot be observed.

    Raises:
        ProbeError: the check failed; the message names the profile.
    """
    moves = [change for change in changes if change is not None]
    if profile.is_null and any(moves):
        raise ProbeError(f"profile {profile.id} should change nothing, but the outputs changed")
    if not profile.is_null and not all(moves):
        changed = "the outputs" if profile.vectors else "both the experts' input and the outputs"
        raise ProbeError(
            f"effect probe failed: profile {profile.id} ({profile.intervention.kind}, strength "
            f"{profile.intervention.strength:g}, {profile.size}) does not change "
            f"{changed} of this model: it would be a silent no-op"
        )


@torch.no_grad()
def _forward(model: nn.Module, sites: Sites, input_ids: Tensor, mask: Tensor) -> _Pass:
    found, kept = find_sites(model, sites), mask.flatten().bool()
    if neurons := neurons_of(found):
        with capture_sizes(neurons) as seen:
            logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        return _Pass(
            logits.flatten(0, 1)[kept], UnitChoice.of_sizes(seen()[kept], neurons[0].top_k)
        )
    routers = routers_of(found)
    if any(router.native_only for router in routers):
        logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        return _Pass(logits.flatten(0, 1)[kept], None)
    with capture_routing(routers) as routing, router_outputs(routers) as given:
        logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
    indices, weights = routing.indices(), routing.weights()
    for column, router in enumerate(routers):
        check_obeyed(router, given.get(router.layer), weights[:, column], indices[:, column])
    choice = UnitChoice.of_routing(indices[kept].long(), weights[kept].float(), routers[0].experts)
    return _Pass(logits.flatten(0, 1)[kept], choice)


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
