"""What a worker steers, on stand-ins for vLLM's layers."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from torch import nn

from dsmoe_eval.engines.vllm import served as module
from dsmoe_eval.engines.vllm.served import ServedNeurons, check_units, find_served, units_of
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import (
    Intervention,
    ModelIdentity,
    NoRouterError,
    Sites,
    SteeringError,
    router_hash,
)

pytestmark = pytest.mark.vllm

WIDTH, TOKENS = 12, 5
GENERATOR = torch.Generator().manual_seed(0)
SAMPLES = {layer: torch.randn(8, WIDTH, generator=GENERATOR) for layer in (0, 1)}
AMPLIFY = Intervention(kind="amplify", strength=2.0)


def _layer(index, part, calls):
    return SimpleNamespace(
        input_size=WIDTH, tp_size=1, part=part, dsmoe_note=None, dsmoe_calls=torch.tensor(calls),
        read_weight=lambda: (SAMPLES[index], torch.arange(1.0, WIDTH + 1)),
    )  # fmt: skip


def served(monkeypatch, part=slice(0, WIDTH), eager=True, calls=1):
    layers = {index: _layer(index, part, calls) for index in SAMPLES}
    monkeypatch.setattr(module, "find_down_projections", lambda *_: layers)
    return ServedNeurons(nn.Module(), eager, 8)


def profile_of(units, block=1, intervention=AMPLIFY):
    identity = ModelIdentity(
        name="m", fingerprint="f", routers=router_hash(SAMPLES), layers=(0, 1),
        experts=WIDTH // block, sites=Sites(kind="neurons", block=block),
    )  # fmt: skip
    return trial_profile(identity, intervention, units)


def test_blocks_become_neurons(monkeypatch):
    effects = served(monkeypatch).effects(profile_of([0, 2], block=3))
    expected = torch.tensor([3.0] * 3 + [1] * 3 + [3] * 3 + [1] * 3)
    assert [torch.equal(one.weight_factor, expected) for one in effects.values()] == [True] * 2
    (first, _) = served(monkeypatch).describe(Sites(kind="neurons", block=3))
    assert (first["experts"], first["top_k"]) == (4, 1)
    for block in (5, 12):
        with pytest.raises(SteeringError, match=f"blocks of {block}; give a divisor"):
            served(monkeypatch).describe(Sites(kind="neurons", block=block))


def test_a_graph_without_the_edit_is_refused(monkeypatch):
    profile = profile_of([0])
    assert served(monkeypatch, eager=False).effects(profile)
    assert served(monkeypatch, calls=0).effects(profile)
    with pytest.raises(SteeringError, match="has run without its edits"):
        served(monkeypatch, eager=False, calls=0).effects(profile)


def run(neurons, before, after):
    """Two passes of keeping, each in two steps."""
    for one in (before, after):
        neurons.keep(0)
        note = neurons.layers[0].dsmoe_note
        note(one[:2])
        note(one[2:])
        neurons.stop_keeping()
        assert neurons.layers[0].dsmoe_note is None


@pytest.mark.parametrize("part", [slice(0, WIDTH), slice(6, WIDTH)])
def test_scaled_neurons_pass_and_others_do_not(monkeypatch, part):
    neurons, profile = served(monkeypatch, part), profile_of([1, 8])
    factor = torch.ones(WIDTH)
    factor[[1, 8]] = 3
    before = torch.randn(TOKENS, WIDTH, generator=GENERATOR)[:, part]
    run(neurons, before, before * factor[part])
    neurons.check_scaled(profile)
    run(neurons, before, before)
    with pytest.raises(SteeringError, match="layer 0: the chosen neurons were not multiplied"):
        neurons.check_scaled(profile)
    changed = before * factor[part]
    changed[3, 0] += 1
    run(neurons, before, changed)
    with pytest.raises(SteeringError, match="layer 0: neurons changed that were not chosen"):
        neurons.check_scaled(profile)
    run(neurons, before, before[:-1])
    with pytest.raises(SteeringError, match="neurons changed"):
        neurons.check_scaled(profile)


def test_the_other_kind_of_unit_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MoERunner", nn.Bilinear)
    dense, routed = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Bilinear(2, 2, 2))
    assert units_of(dense) == Sites(kind="neurons")
    check_units(dense, Sites(kind="neurons", block=2))
    check_units(routed, Sites())
    with pytest.raises(NoRouterError, match="in a plan `sites: neurons`"):
        check_units(dense, Sites())
    with pytest.raises(SteeringError, match="has experts; neurons are for dense models"):
        check_units(routed, Sites(kind="neurons"))


def test_experts_of_another_class_are_refused_by_its_name(monkeypatch):
    monkeypatch.setattr(module, "MoERunner", nn.Bilinear)
    with pytest.raises(SteeringError, match="vLLM runs the experts by Bilinear, which"):
        find_served(nn.Sequential(nn.Bilinear(2, 2, 2)), True, 8)
