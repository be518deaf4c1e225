"""Both probes must pass on honest steering and stop everything else."""

import pytest
import torch

from dsmoe_eval.steering import ProbeError, find_routers, probe, seam
from dsmoe_eval.steering.interventions import LayerEffect

from .test_steer import run


@pytest.mark.parametrize("kind", ["bias", "reweight"])
def test_figures_of_an_honest_profile(model, batch, make_profile, kind):
    pairs = [(layer, expert) for layer in (0, 2) for expert in range(4)]
    report = probe(model, make_profile(model, pairs, kind, 4.0), *batch)
    assert report.null_max_difference == 0.0
    assert report.logit_max_change > 0
    assert report.weight_max_change > 0
    assert report.active_experts == 2
    assert report.tokens == int(batch[1].sum())
    assert not any(seam.is_attached(router.module) for router in find_routers(model))


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


def test_a_dead_seam_stops_the_run(model, batch, make_profile, monkeypatch):
    monkeypatch.setattr(seam, "attach", lambda _module, _effect: None)
    with pytest.raises(ProbeError, match="effect probe failed"):
        probe(model, make_profile(model, [(0, 3), (0, 4)], "bias", 9.0), *batch)


def test_a_seam_that_leaks_at_strength_zero_stops_the_run(model, batch, make_profile, monkeypatch):
    honest = seam.attach

    def leaky(module, effect):
        honest(module, LayerEffect(effect.logit_shift + torch.eye(8)[3] * 5.0, None))

    monkeypatch.setattr(seam, "attach", leaky)
    with pytest.raises(ProbeError, match="null probe failed"):
        probe(model, make_profile(model, [(0, 3)], "bias", 9.0), *batch)


def test_experts_that_do_not_obey_the_router_stop_the_run(model, batch, make_profile):
    """As a fused path would that never asks the router's forward: one layer, the others work."""
    router = find_routers(model)[-1]
    hook = router.consumer.register_forward_pre_hook(
        lambda _m, args: (args[0], args[1].flip(-1), args[2])
    )
    with pytest.raises(ProbeError, match=r"layer 2: the experts did not receive"):
        probe(model, make_profile(model, [(0, 3), (2, 4)], "bias", 9.0), *batch)
    hook.remove()
