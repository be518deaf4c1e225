"""The probes of a model in vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from ...steering import ProbeError, Profile, SteeringError
from ...steering.probes import check_effect, check_null
from .probe_report import VllmProbeReport
from .routing import RoutedSequence, active_experts

Prompts = Sequence[Sequence[int]]
Observed = tuple[Tensor, list[Tensor]]
"""Log-probabilities of the next tokens, and the experts of each prompt's tokens, if they show."""


class ProbedVllm(Protocol):
    """What the probes use of a `SteeredVllm`."""

    eager: bool

    def steer(self, profile: Profile) -> AbstractContextManager[None]:
        """Steer by a profile inside the context."""

    def forget(self) -> None:
        """Remove all from the prefix cache."""

    def log_probabilities(self, prompts: Prompts) -> Tensor:
        """Compute log-probabilities of the next token of each prompt."""

    def routing(self, prompts: Prompts) -> list[RoutedSequence]:
        """Record the routing of prompts."""

    def call(self, method: str, *args: object) -> object:
        """Call a method of all workers."""


def probe_engine(
    engine: ProbedVllm, profile: Profile, prompts: Prompts, must_act: bool
) -> VllmProbeReport:
    """Run the null probe and the effect probe; see `SteeredVllm.probe`."""
    neurons = engine.eager and profile.sites.kind == "neurons" and bool(profile.experts)
    first = min(profile.by_layer()) if neurons else None
    base, before = _observe(engine, prompts, first)
    with engine.steer(profile.with_strength(0.0)):
        null, _ = _observe(engine, prompts)
    with engine.steer(profile):
        steered, after = _observe(engine, prompts, first)
    left, _ = _observe(engine, prompts)
    report = VllmProbeReport(
        null_max_difference=max(_difference(null, base), _difference(left, base)),
        selection_changed=_changed(before, after),
        logit_max_change=_difference(steered, base),
        active_experts=active_experts(before),
        tokens=sum(len(prompt) for prompt in prompts),
    )
    check_null(report.null_max_difference)
    check_effect(profile, *((report.logit_max_change,) if must_act else ()))
    if first is not None:
        _check_scaled(engine, profile)
    if report.active_experts != (active := active_experts(after)) or active == 0:
        raise ProbeError(
            f"profile {profile.id}: {active} experts run for a token where "
            f"{report.active_experts} did before (0: not the same number everywhere)"
        )
    return report


def _observe(engine: ProbedVllm, prompts: Prompts, kept: int | None = None) -> Observed:
    """Record what prompts give; the workers keep the neurons of layer `kept`, if there is one."""
    engine.forget()
    if kept is None:
        values = engine.log_probabilities(prompts)
    else:
        with _keeping(engine, kept):
            values = engine.log_probabilities(prompts)
    return values, [one.experts for one in engine.routing(prompts)] if engine.eager else []


@contextmanager
def _keeping(engine: ProbedVllm, layer: int) -> Iterator[None]:
    engine.call("dsmoe_keep", layer)
    try:
        yield
    finally:
        engine.call("dsmoe_kept")


def _check_scaled(engine: ProbedVllm, profile: Profile) -> None:
    try:
        engine.call("dsmoe_check_scaled", profile.to_json())
    except SteeringError as error:
        raise ProbeError(f"profile {profile.id}: {error}") from error


def _changed(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    """Return the share of (token, layer) pairs whose experts changed; None if they do not show."""
    changed = [(a.sort(-1)[0] != b.sort(-1)[0]).any(-1) for a, b in zip(before, after, strict=True)]
    return float(torch.cat(changed).float().mean()) if changed else None


def _difference(ours: Tensor, base: Tensor) -> float:
    return (
        0.0 if torch.equal(ours, base) else float((ours - base).abs().nan_to_num(torch.inf).max())
    )
