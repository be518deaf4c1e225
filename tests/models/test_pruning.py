"""Smaller checkpoints: their logits are those of the masked model, on shapes of four families."""

import json
import shutil

import pytest
import torch

from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models import bake, load_model
from dsmoe_eval.models.pruning import choice_groups, kept_by_layer, slice_experts
from dsmoe_eval.steering import SteeringError, find_routers

from ..conftest import EXPERTS, make_model, profile_of
from ..grouped import grouped_model

KINDS = ["olmoe", "qwen3_moe", "gpt_oss", "glm4_moe"]
SHAPES = {"olmoe": 3, "qwen3_moe": 3, "gpt_oss": 6, "glm4_moe": 4}
"""How many tensors of a layer have an axis of experts."""


def model_of(kind):
    model = grouped_model() if kind == "glm4_moe" else make_model(kind)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # as they are drawn, experts hardly differ, and biases are zero
        for router in find_routers(model):
            for parameter in router.consumer.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def saved(model, folder):
    model.save_pretrained(folder)
    for path in EMBEDDED_MODELS["lab-poly"].glob("token*"):
        shutil.copyfile(path, folder / path.name)


def mask_of(model, by_layer):
    """A mask of other experts in each layer."""
    profile = profile_of(model, "mask", experts=range(EXPERTS))
    experts = [one for one in profile.experts if one.expert in by_layer[one.layer]]
    return profile.model_copy(update={"experts": tuple(experts)})


def different(model):
    """Four of the eight experts of each layer, two of each half, which differ by layer."""
    return mask_of(model, {0: (0, 1, 4, 7), 1: (1, 3, 6, 7), 2: (0, 2, 5, 6)})


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_equals_masked(kind, tmp_path):
    model = model_of(kind)
    saved(model, tmp_path / "model")
    profile = different(model)
    report = bake(str(tmp_path / "model"), profile, tmp_path / "baked", "cpu")
    assert report.selection_agreement == 1.0
    assert report.logit_max_difference < 1e-6 < 1e-2 < report.logit_max_change
    assert len(report.parameters) == SHAPES[kind] * len(profile.model.layers)
    baked = load_model(str(tmp_path / "baked"), "cpu").model
    kept = kept_by_layer(profile)
    for before, after in zip(find_routers(model), find_routers(baked), strict=True):
        assert (after.experts, after.top_k) == (4, before.top_k)
        assert torch.equal(after.weight, before.weight[kept[before.layer]])
        for name, parameter in before.consumer.named_parameters():
            sliced = after.consumer.get_parameter(name)
            assert torch.equal(sliced, parameter[kept[before.layer]])
    weights, small = (
        sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors"))
        for name in ("model", "baked")
    )
    assert small < weights
    assert json.loads((tmp_path / "baked" / "dsmoe_profile.json").read_text())["experts"]


def test_the_model_itself_is_unchanged_and_shares_its_other_weights():
    model = model_of("qwen3_moe")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small, sliced = slice_experts(model, different(model))
    assert model.config.num_experts == EXPERTS
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        same = small.state_dict()[name].data_ptr() == value.data_ptr()
        assert same == (name not in sliced)


def test_masks_that_no_checkpoint_can_carry_are_refused(tmp_path):
    model = model_of("olmoe")
    with pytest.raises(SteeringError, match="keeps 6 to 7 experts of a layer"):
        kept_by_layer(mask_of(model, {0: (0,), 1: (1, 2), 2: (3,)}))
    with pytest.raises(SteeringError, match="only a profile that masks experts"):
        kept_by_layer(profile_of(model, "bias"))
    with pytest.raises(SteeringError, match="only a profile that masks experts"):
        kept_by_layer(profile_of(model, "mask", 0.0))
    grouped = model_of("glm4_moe")
    uneven = profile_of(grouped, "mask", experts=(0,))
    with pytest.raises(SteeringError, match=r"layer 1: the groups keep \[3, 4\] experts"):
        slice_experts(grouped, uneven)
    saved(model, tmp_path / "model")
    too_many = profile_of(model, "mask", experts=range(7))
    with pytest.raises(SteeringError, match="leaves fewer than the 2 that every token needs"):
        bake(str(tmp_path / "model"), too_many, tmp_path / "baked", "cpu")
    assert not (tmp_path / "baked").exists()


def test_a_checkpoint_whose_experts_are_in_another_order_is_not_kept(tmp_path, monkeypatch):
    """The proof, not the slicing, decides: wrong rows leave nothing on disk."""
    model = model_of("olmoe")
    saved(model, tmp_path / "model")
    monkeypatch.setattr(
        "dsmoe_eval.models.pruning._sliced",
        lambda _name, source, shape, *_: source[: shape[0]].clone(),
    )
    with pytest.raises(SteeringError, match="does not do what the steered one does"):
        bake(str(tmp_path / "model"), different(model), tmp_path / "baked", "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_groups_are_those_of_the_configuration(tmp_path):
    grouped_model().config.save_pretrained(tmp_path)
    assert choice_groups(str(tmp_path)) == 2
    assert choice_groups("lab-poly") == 1
