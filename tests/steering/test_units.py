"""The kind of units, in profiles: those of experts keep their ids."""

import json

import pytest
from pydantic import ValidationError

from dsmoe_eval.steering import EXPERTS, Profile, Sites

from ..conftest import make_model, profile_of
from ..dense import dense_model, neuron_profile


def test_a_profile_of_experts_does_not_mention_them():
    profile = profile_of(make_model("olmoe"))
    content = json.loads(profile.to_json())
    assert "sites" not in content["model"]
    assert Profile.from_json(profile.to_json()) == profile
    assert profile.sites == EXPERTS


def test_a_profile_of_neurons_says_so():
    blocks = Sites(kind="neurons", block=8)
    profile = neuron_profile(dense_model("llama"), units=[0, 1, 2], sites=blocks)
    assert json.loads(profile.to_json())["model"]["sites"] == {"kind": "neurons", "block": 8}
    assert Profile.from_json(profile.to_json()).sites == blocks
    assert profile.size == "9 blocks of 8 neurons"
    single = neuron_profile(dense_model("llama"), units=[0])
    assert single.size == "3 neurons"
    assert single.id != profile.id


def test_experts_have_no_blocks():
    with pytest.raises(ValidationError, match="blocks are of neurons"):
        Sites(block=2)
