"""Baked checkpoints, through real files: they do what steering does, or they are not there."""

import json
import shutil

import pytest
import torch

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import bake, load_model
from dsmoe_eval.models.loading import card_config
from dsmoe_eval.models.miniature import miniature
from dsmoe_eval.registry import load_model_card
from dsmoe_eval.steering import Profile, SteeringError, find_routers
from dsmoe_eval.variants import build_learned_profile, get_variant

from ..conftest import profile_of
from ..dense import neuron_profile, saved_dense

CARRIERS = {
    "gpt-oss-20b": "router.bias",
    "gpt-oss-120b": "router.bias",
    "phi-tiny-moe-instruct": "router.weight",
    "ernie-4.5-21b-a3b-thinking": "e_score_correction_bias",
}
WITHOUT = ["olmoe-1b-7b", "qwen1.5-moe-a2.7b", "qwen3-30b-a3b-instruct-2507",
           "qwen3-30b-a3b-thinking-2507", "qwen3-next-80b-a3b-thinking", "emo-1b14b-1t",
           "stdmoe-1b14b-1t"]  # fmt: skip


def saved(card, folder, dtype=torch.float32):
    """A small random model of a card on disk, its norms and biases random too."""
    model = miniature(card_config(load_model_card(card)), dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name or name.endswith("bias"):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, max_shard_size="300KB")
    for path in EMBEDDED_MODELS["lab-poly"].glob("token*"):
        shutil.copyfile(path, folder / path.name)
    return model


@pytest.mark.parametrize("card", list(CARRIERS))
def test_bake(card, tmp_path, record_property):
    model = saved(card, tmp_path / "model")
    channel = "score" if CARRIERS[card].startswith("e_score") else "logit"
    profile = profile_of(model, "bias", 0.3 if channel == "score" else 30.0, channel=channel)
    report = bake(str(tmp_path / "model"), profile, tmp_path / "baked", "cpu")
    record_property("outcome", "scores only" if channel == "score" else "yes")
    assert report.selection_agreement == 1.0
    assert report.logit_max_difference < 1e-4 < report.logit_max_change
    assert all(name.endswith(CARRIERS[card]) for name in report.parameters)
    assert len(report.parameters) == len(profile.model.layers)
    # Nothing but the carriers changed, and the checkpoint says what it carries.
    baked = dict(load_model(str(tmp_path / "baked"), "cpu").model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(baked[name], tensor) == (name not in report.parameters), name
    assert Profile.load(tmp_path / "baked" / "dsmoe_profile.json") == profile
    assert not list(tmp_path.glob(".baked*"))
    with pytest.raises(UserError, match="exists already"):
        bake(str(tmp_path / "model"), profile, tmp_path / "baked", "cpu")


def learned(model):
    """A learned profile of random shifts of every expert, up and down, centred per layer."""
    other = profile_of(model, "bias", 1.0)
    shape = (len(other.model.layers), other.model.experts)
    shift = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    shift -= shift.mean(1, keepdim=True)
    return build_learned_profile(get_variant("learned-profile"), other.model, shift, other.source)


@pytest.mark.parametrize("card", ["gpt-oss-20b", "phi-tiny-moe-instruct"])
def test_a_learned_profile_bakes(card, tmp_path):
    profile = learned(saved(card, tmp_path / "model"))
    assert {one.score > 0 for one in profile.experts} == {True, False}
    report = bake(str(tmp_path / "model"), profile, tmp_path / "baked", "cpu")
    assert report.selection_agreement == 1.0
    assert report.logit_max_difference < 1e-5 * report.logit_max_change < report.logit_max_change


def test_what_carries_no_bias_is_refused_a_learned_profile_too(tmp_path):
    """The embedded model is of this kind: it is steered at run time."""
    profile = learned(load_model("lab-poly", "cpu").model)
    with pytest.raises(SteeringError, match="nothing in this architecture can carry"):
        bake("lab-poly", profile, tmp_path / "baked", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("card", WITHOUT)
def test_bake_refused(card, tmp_path, record_property):
    model = saved(card, tmp_path / "model")
    with pytest.raises(SteeringError, match="the vLLM engine"):
        bake(str(tmp_path / "model"), profile_of(model, "bias", 30.0), tmp_path / "baked", "cpu")
    record_property("outcome", "refused")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_bake_that_cannot_be_proven_leaves_nothing(tmp_path):
    """In bfloat16 the fold into Phi's linear adds rounding that moves selections."""
    model = saved("phi-tiny-moe-instruct", tmp_path / "model", torch.bfloat16)
    with pytest.raises(SteeringError, match="bake a float32 copy"):
        bake(str(tmp_path / "model"), profile_of(model, "bias", 30.0), tmp_path / "baked", "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_profile_of_another_model_is_refused(tmp_path):
    model = saved("gpt-oss-20b", tmp_path / "model")
    profile = profile_of(model, "bias", 30.0)
    with torch.no_grad():
        find_routers(model)[0].weight.add_(1.0)
    model.save_pretrained(tmp_path / "other")
    for path in (tmp_path / "model").glob("token*"):
        shutil.copyfile(path, tmp_path / "other" / path.name)
    with pytest.raises(SteeringError, match="Identify the experts of this model"):
        bake(str(tmp_path / "other"), profile, tmp_path / "baked", "cpu")


def test_the_command(tmp_path, capsys):
    from dsmoe_eval.cli import main

    model = saved("gpt-oss-20b", tmp_path / "model")
    (tmp_path / "p.json").write_text(profile_of(model, "bias", 30.0).to_json())
    arguments = ["bake", str(tmp_path / "model"), str(tmp_path / "p.json"), "-o"]
    main([*arguments, str(tmp_path / "one")])
    assert "100.00% of the selections are the same" in capsys.readouterr().out
    main([*arguments, str(tmp_path / "two"), "--json"])
    assert json.loads(capsys.readouterr().out)["selection_agreement"] == 1.0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_neurons_are_baked_into_the_down_projections(kind, tmp_path):
    model = saved_dense(kind, tmp_path / "model")
    profile = neuron_profile(model, "reweight", 1.5)
    report = bake(str(tmp_path / "model"), profile, tmp_path / "baked", "cpu")
    assert report.selection_agreement > 0.99
    assert report.logit_max_difference < 1e-5 < report.logit_max_change
    assert len(report.parameters) == 3
    changed = load_model(str(tmp_path / "baked"), "cpu", sites=profile.sites).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(changed[name], tensor) == (name not in report.parameters), name


def test_in_bfloat16_the_difference_of_baked_neurons_is_told(tmp_path):
    model = saved_dense("llama", tmp_path / "model", torch.bfloat16)
    exact = bake(str(tmp_path / "model"), neuron_profile(model, "amplify", 1.0), tmp_path / "two")
    assert exact.logit_max_difference == 0.0  # a power of two
    rounded = bake(str(tmp_path / "model"), neuron_profile(model, "amplify", 1.7), tmp_path / "b")
    assert 0 < rounded.logit_max_difference < rounded.logit_max_change
