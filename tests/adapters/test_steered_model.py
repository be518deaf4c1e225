"""One model in memory for every profile, and no profile that does nothing."""

import threading

import pytest
import torch

from dsmoe_eval.adapters.steered_model import SteeredModel
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, ProbeError, Steering, SteeringError

from ..conftest import vector_profile


@pytest.fixture(scope="module")
def loaded():
    return load_model("lab-poly", "cpu")


@pytest.fixture(scope="module")
def profile(loaded):
    return trial_profile(loaded.identity, Intervention(kind="bias", strength=6.0), range(4))


def logits(model):
    with torch.no_grad():
        return model(torch.arange(2, 12)[None]).logits


def test_a_model_is_steered_while_it_answers_and_at_no_other_time(loaded, profile):
    base, steered = SteeredModel(loaded), SteeredModel(loaded, profile)
    before = logits(loaded.model)
    with steered.answering() as answering:
        assert not torch.equal(logits(answering.model), before)
    with base.answering() as answering:
        assert torch.equal(logits(answering.model), before)
    assert (base.name, steered.name) == ("lab-poly", f"lab-poly@{profile.id}")
    assert base.fingerprint != steered.fingerprint


def test_a_file_of_vectors_steers_like_one_of_experts(loaded, tmp_path):
    vectors = {1: (0.5,) * loaded.model.config.hidden_size}
    (tmp_path / "p.json").write_text(vector_profile(loaded.identity, vectors).to_json())
    steered = SteeredModel.open("lab-poly", tmp_path / "p.json", "cpu")
    before = logits(steered.loaded.model)
    with steered.answering() as answering:
        assert not torch.equal(logits(answering.model), before)
    assert torch.equal(logits(steered.loaded.model), before)


def test_a_model_in_memory_is_not_loaded_again(profile, tmp_path):
    (tmp_path / "p.json").write_text(profile.to_json())
    base = SteeredModel.open("lab-poly", device="cpu")
    steered = SteeredModel.open("lab-poly", tmp_path / "p.json", "cpu")
    assert steered.loaded is base.loaded
    assert steered.profile == profile
    assert SteeredModel.open("lab-poly").loaded is not base.loaded  # another device was asked for


def test_two_profiles_of_one_model_wait_for_each_other(profile, tmp_path):
    (tmp_path / "p.json").write_text(profile.to_json())
    base = SteeredModel.open("lab-poly", device="cpu")
    steered = SteeredModel.open("lab-poly", tmp_path / "p.json", "cpu")
    expected = logits(base.loaded.model)
    seen = []

    def look():
        with base.answering() as answering:
            seen.append(logits(answering.model))

    thread = threading.Thread(target=look)
    with steered.answering():
        thread.start()
        thread.join(0.2)
        assert not seen
    thread.join()
    assert torch.equal(seen[0], expected)


def test_a_profile_that_does_nothing_is_refused(loaded, profile, monkeypatch):
    """As where a kernel never looks at the routers: the steering is put on, and nothing moves."""
    monkeypatch.setattr(Steering, "_install", lambda *_: None)
    with pytest.raises(ProbeError, match="silent no-op"):
        SteeredModel(loaded, profile)


def test_a_profile_of_another_model_is_refused(loaded, profile):
    other = profile.model.model_copy(update={"routers": "0" * 64})
    with pytest.raises(SteeringError, match="other weights"):
        SteeredModel(loaded, profile.model_copy(update={"model": other}))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(SteeringError, match=r"gone\.json"):
        SteeredModel.open("lab-poly", tmp_path / "gone.json")
    with pytest.raises(UserError, match="no-such-model"):
        SteeredModel.open("no-such-model")
