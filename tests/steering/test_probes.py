"""Both probes must pass on honest steering and stop everything else."""

import sys

import pytest
import torch

from dsmoe_eval.steering import (
    ModelProber,
    ProbeError,
    SteeringError,
    find_routers,
    probe,
    router_patch,
)
from dsmoe_eval.steering.interventions import LayerEffect

from .test_steer import run

STEER = sys.modules[
    "dsmoe_eval.steering.steer"
]  # the module; the package's `steer` is the function


PROBES = sys.modules["dsmoe_eval.steering.probes"]


@pytest.mark.parametrize("kind", ["bias", "reweight"])
def test_figures_of_an_honest_profile(model, batch, make_profile, kind):
    pairs = [(layer, expert) for layer in (0, 2) for expert in range(4)]
    report = probe(model, make_profile(model, pairs, kind, 4.0), *batch)
    assert report.null_max_difference == 0.0
    assert report.logit_max_change > 0
    assert report.weight_max_change > 0
    assert report.active_experts == 2
    assert report.tokens == int(batch[1].sum())
    assert not any(router_patch.is_attached(router.module) for router in find_routers(model))


def test_texts_in_parts_give_the_figures_of_all(model, batch, make_profile, monkeypatch):
    profile = make_profile(model, [(0, expert) for expert in range(4)], "bias", 4.0)
    whole, widths = probe(model, profile, *batch), []
    forward = PROBES._forward
    monkeypatch.setattr(PROBES, "_LOGITS_AT_ONCE", 2 * 9 * 64)
    monkeypatch.setattr(
        PROBES,
        "_forward",
        lambda model, sites, ids, mask: (
            widths.append(ids.shape) or forward(model, sites, ids, mask)
        ),
    )
    parts = probe(model, profile, *batch)
    assert widths == [(2, 9)] * 3 + [(1, 4)] * 3
    assert parts.to_dict() == pytest.approx(whole.to_dict(), abs=1e-5)
    assert parts.selection_changed > 0


def test_a_prober_computes_once_what_profiles_share_and_gives_the_same_figures(
    model, batch, make_profile, monkeypatch
):
    pairs = [(0, expert) for expert in range(4)]
    profiles = [make_profile(model, pairs, "bias", strength) for strength in (1.0, 4.0, 0.0)]
    profiles.append(make_profile(model, pairs[:2], "bias", 4.0))
    alone, forwards, forward = [probe(model, one, *batch) for one in profiles], [], PROBES._forward
    monkeypatch.setattr(PROBES, "_forward", lambda *a: forwards.append(1) or forward(*a))
    prober = ModelProber(model, *batch)
    assert [prober.probe(one) for one in profiles] == alone
    assert len(forwards) == 1 + 2 + len(profiles)  # base, two null probes, the profiles
    monkeypatch.setattr(PROBES, "_LOGITS_KEPT", 0)
    wary = ModelProber(model, *batch)
    assert [wary.probe(one) for one in profiles] == alone
    assert len(forwards) == 7 + len(profiles) + 2 + len(profiles)


def test_a_prober_finds_a_model_that_is_no_longer_as_it_was(model, batch, make_profile):
    prober = ModelProber(model, *batch)
    prober.probe(make_profile(model, [(0, 1)], "bias", 4.0))
    (router, *_) = find_routers(model)
    with torch.no_grad():
        kept = router.module.weight.clone()
        router.module.weight.add_(0.1 * torch.randn_like(kept))
    try:
        with pytest.raises((ProbeError, SteeringError)):
            prober.probe(make_profile(model, [(0, 2)], "bias", 4.0))
    finally:
        router.module.weight.data.copy_(kept)


def test_an_expert_that_only_one_part_uses_is_no_silent_no_op(
    model, batch, make_profile, monkeypatch
):
    """Its effect is looked for in all texts together."""
    ids, mask = batch[0][:, :4], batch[1][:, :4]  # without padding
    used = [set(run(model, ids[:size], mask[:size])[1][:, 0].flatten().tolist()) for size in (1, 3)]
    other = min(used[1] - used[0])
    monkeypatch.setattr(PROBES, "_LOGITS_AT_ONCE", 1)
    report = probe(model, make_profile(model, [(0, other)], "reweight", 4.0), ids, mask)
    assert report.logit_max_change > 0


def test_a_null_profile_passes_and_moves_nothing(model, batch, make_profile):
    report = probe(model, make_profile(model, [(0, 3)], "bias", 0.0), *batch)
    assert report.logit_max_change == 0.0
    assert report.selection_changed == 0.0


def test_a_profile_that_does_nothing_stops_the_run(model, batch, make_profile):
    """Reweighting an expert that no token selects is a silent no-op."""
    ids, mask = batch[0][:1, :2], batch[1][:1, :2]
    used = set(run(model, ids, mask)[1][:, 0].flatten().tolist())
    unused = next(expert for expert in range(8) if expert not in used)
    with pytest.raises(ProbeError, match="silent no-op"):
        probe(model, make_profile(model, [(0, unused)], "reweight", 4.0), ids, mask)


def test_a_router_patch_that_is_never_reached_is_refused(model, batch, make_profile, monkeypatch):
    monkeypatch.setattr(router_patch, "attach", lambda _module, _edit: None)
    with pytest.raises(SteeringError, match="did not call the patched linear layer"):
        probe(model, make_profile(model, [(0, 3), (0, 4)], "bias", 9.0), *batch)


def test_an_edit_that_does_nothing_stops_the_run(model, batch, make_profile, monkeypatch):
    monkeypatch.setattr(STEER, "layer_effect", lambda *_: LayerEffect())
    with pytest.raises(ProbeError, match="effect probe failed"):
        probe(model, make_profile(model, [(0, 3), (0, 4)], "bias", 9.0), *batch)


def test_an_edit_that_leaks_at_strength_zero_stops_the_run(model, batch, make_profile, monkeypatch):
    leak = torch.eye(8)[3] * 5.0
    monkeypatch.setattr(STEER, "layer_effect", lambda *_: LayerEffect(logit_shift=leak))
    with pytest.raises(ProbeError, match="null probe failed"):
        probe(model, make_profile(model, [(0, 3)], "bias", 9.0), *batch)


@pytest.mark.parametrize("kind", ["reweight", "amplify"])
def test_a_weight_intervention_that_moves_the_selection_stops_the_run(
    model, batch, make_profile, monkeypatch, kind
):
    shift = torch.eye(8)[3] * 50.0
    honest = STEER.layer_effect

    def dishonest(intervention, *rest):
        null = intervention.strength == 0
        return honest(intervention, *rest) if null else LayerEffect(logit_shift=shift)

    monkeypatch.setattr(STEER, "layer_effect", dishonest)
    with pytest.raises(ProbeError, match="changed the selection"):
        probe(model, make_profile(model, [(0, 3)], kind, 4.0), *batch)


def test_a_mask_that_leaks_stops_the_run(model, batch, make_profile, monkeypatch):
    used = int(run(model, *batch)[1][0, 0, 0])
    weak = STEER.layer_effect

    def leaky(intervention, *rest):
        return weak(intervention.model_copy(update={"kind": "bias"}), *rest)

    monkeypatch.setattr(STEER, "layer_effect", leaky)
    with pytest.raises(ProbeError, match="mask: expert"):
        probe(model, make_profile(model, [(0, used)], "mask", 1.0), *batch)


def test_experts_that_do_not_obey_the_router_stop_the_run(model, batch, make_profile):
    """As a fused path would that never asks the router's forward: one layer, the others work."""
    router = find_routers(model)[-1]
    hook = router.consumer.register_forward_pre_hook(
        lambda _m, args: (args[0], args[1].flip(-1), args[2])
    )
    with pytest.raises(ProbeError, match=r"layer 2: the experts did not receive"):
        probe(model, make_profile(model, [(0, 3), (2, 4)], "bias", 9.0), *batch)
    hook.remove()
