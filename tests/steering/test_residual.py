"""Vectors in the residual stream: exact, reversible, strict, and never silent."""

import json

import pytest
import torch

from dsmoe_eval.models.loading import identify_model
from dsmoe_eval.models.probing import random_batch
from dsmoe_eval.steering import (
    ProbeError,
    Profile,
    SteeringError,
    fold,
    probe,
    probes,
    steer,
)

from .. import conftest
from ..conftest import make_model

WIDTH = 32


def vector_profile(model, layers=(1,), strength=1.0, seed=0):
    """Random vectors for a model in memory; layer 1 of qwen3_moe is dense."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {i: tuple(torch.randn(WIDTH, generator=generator).tolist()) for i in layers}
    return conftest.vector_profile(identify_model("tiny", "0", model), drawn, strength)


@torch.no_grad()
def logits(model, ids, mask):
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits


def test_strength_zero_changes_no_bit_and_removal_restores(model, batch):
    before = logits(model, *batch)
    with steer(model, vector_profile(model, (0, 2), 0.0)):
        during = logits(model, *batch)
    with steer(model, vector_profile(model, (0, 2), 3.0)):
        steered = logits(model, *batch)
    after = logits(model, *batch)
    bits = [one.view(torch.int32) for one in (before, during, after)]
    assert torch.equal(bits[0], bits[1])
    assert torch.equal(bits[0], bits[2])
    assert not torch.equal(before, steered)


@torch.no_grad()
def test_the_next_layer_receives_strength_times_the_vector_more(model, batch):
    profile = vector_profile(model, (1,), 2.5)
    inputs = []
    for layer in (1, 2):
        model.model.layers[layer].register_forward_pre_hook(
            lambda _module, args, kwargs: inputs.append((args or [kwargs["hidden_states"]])[0]),
            with_kwargs=True,
        )
    model(input_ids=batch[0], attention_mask=batch[1], use_cache=False)
    with steer(model, profile):
        model(input_ids=batch[0], attention_mask=batch[1], use_cache=False)
    kept = batch[1].bool()
    first, second, same, moved = (one[kept] for one in inputs)
    assert torch.equal(first, same)
    expected = (2.5 * torch.tensor(profile.vectors[1])).expand_as(moved)
    torch.testing.assert_close(moved - second, expected, rtol=1e-5, atol=1e-5)


def test_probes_pass_on_each_architecture(model, batch):
    report = probe(model, vector_profile(model, (1, 2)), *batch)
    assert report.null_max_difference == 0.0
    assert report.logit_max_change > 0
    last = probe(model, vector_profile(model, (2,)), *batch)
    assert (last.selection_changed, last.weight_max_change) == (0.0, 0.0)  # nothing follows it


def test_half_precision(batch):
    model = make_model("qwen3_moe").bfloat16()
    assert probe(model, vector_profile(model), *random_batch(model)).logit_max_change > 0


def test_a_vector_that_is_not_added_fails_the_probe(batch, monkeypatch):
    model = make_model("olmoe")
    profile = vector_profile(model)
    twice = profile.model_copy(update={"vectors": vector_profile(model, seed=1).vectors})
    real = probes.check_moved
    monkeypatch.setattr(probes, "check_moved", lambda _, *rest: real(twice, *rest))
    with pytest.raises(ProbeError, match="did not move by strength times the vector"):
        probe(model, profile, *batch)


def test_a_vector_without_effect_fails_the_probe(batch, monkeypatch):
    model = make_model("olmoe")
    profile = vector_profile(model, strength=1e-30)
    monkeypatch.setattr(probes, "check_moved", lambda *_: None)
    with pytest.raises(ProbeError, match="does not change the outputs of this model"):
        probe(model, profile, *batch)


def test_twice_is_refused(make_profile):
    model = make_model("qwen3_moe")
    vectors, experts = vector_profile(model), make_profile(model, [(0, 3)])
    for first, second in ((vectors, vectors), (vectors, experts), (experts, vectors)):
        with steer(model, first), pytest.raises(SteeringError, match="steered already"):
            steer(model, second).install()


def test_another_model_or_layer_or_width_is_refused():
    model = make_model("qwen3_moe")
    with pytest.raises(SteeringError, match=r"steers layer 3; this model has layers 0 to 2"):
        steer(model, vector_profile(model, (1, 3)))
    short = vector_profile(model).model_copy(update={"vectors": {0: (1.0,) * 8}})
    with pytest.raises(SteeringError, match="has 8 numbers; the hidden states of this model have"):
        steer(model, short)
    with pytest.raises(SteeringError, match="Identify the experts of this model"):
        steer(make_model("qwen3_moe").apply(_noisy), vector_profile(model))
    with pytest.raises(SteeringError, match="too large for float32"):
        steer(model, vector_profile(model, strength=1e39)).install()


def _noisy(module):
    for parameter in module.parameters(recurse=False):
        parameter.data.add_(1.0)


def test_folding_is_refused():
    model = make_model("gpt_oss")
    with pytest.raises(SteeringError, match="no parameter; steer it at run time"):
        fold(model, vector_profile(model))


def test_the_file_reads_back_and_profiles_of_experts_keep_their_form(tmp_path, make_profile):
    profile = vector_profile(make_model("olmoe"), (0, 2))
    path = tmp_path / "p.json"
    path.write_text(profile.to_json())
    assert Profile.load(path) == profile
    assert Profile.load(path).id == profile.id
    assert profile.with_strength(2.0).id != profile.id
    assert profile.with_strength(0.0).is_null
    experts = make_profile(make_model("olmoe"), [(0, 3)])
    assert "vectors" not in json.loads(experts.to_json())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vectors": {"0": [1.0], "1": [1.0, 2.0]}}, r"differ in width: \[1, 2\]"),
        ({"vectors": {"0": [0.0, 0.0]}}, "the vector of layer 0 is zero"),
        ({"vectors": {"0": []}}, "the vector of layer 0 is zero"),
        ({"vectors": {"-1": [1.0]}}, "vectors.-1"),
        ({"vectors": {"a": [1.0]}}, "vectors.a"),
        ({"vectors": {"0": [1e39]}}, "vectors.0.0"),
        ({"vectors": {"0": ["1"]}}, "vectors.0.0"),
        ({"vectors": {"0": [True]}}, "vectors.0.0"),
        ({"vectors": {}}, "residual needs `vectors`"),
        ({"intervention": {"kind": "bias", "strength": 1}}, "no other kind has them"),
        ({"experts": [{"layer": 0, "expert": 0, "score": 1}]}, "residual steers no experts"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, change, words):
    path = tmp_path / "p.json"
    profile = json.loads(vector_profile(make_model("olmoe")).to_json())
    path.write_text(json.dumps(profile | change))
    with pytest.raises(SteeringError, match=words) as error:
        Profile.load(path)
    assert "p.json" in str(error.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(tmp_path, number):
    text = vector_profile(make_model("olmoe")).model_copy(update={"vectors": {0: (0.5,)}}).to_json()
    path = tmp_path / "p.json"
    path.write_text(text.replace("0.5\n", f"{number}\n"))
    with pytest.raises(SteeringError, match="vectors"):
        Profile.load(path)
