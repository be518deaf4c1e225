"""The artefact: strict, hashed by content, and clear when it is not a profile."""

import json

import pytest
from pydantic import ValidationError

from dsmoe_eval.steering import Profile, SteeringError


@pytest.fixture
def profile(make_profile):
    from ..conftest import make_model

    return make_profile(make_model("qwen3_moe"), [(0, 3), (2, 5)], "bias", 2.0)


def test_round_trip_keeps_the_id(profile, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(profile.to_json())
    assert Profile.load(path) == profile
    assert Profile.load(path).id == profile.id


def test_the_id_follows_the_content(profile):
    assert profile.with_strength(3.0).id != profile.id
    assert profile.with_strength(2.0).id == profile.id


def test_by_layer_and_null(profile):
    by_layer = profile.by_layer()
    assert list(by_layer) == [0, 2]
    assert [one.expert for one in by_layer[2]] == [5]
    assert not profile.is_null
    assert profile.with_strength(0.0).is_null


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts": [{"layer": 1, "expert": 0, "score": 1}]}, "not in the model"),
        ({"experts": [{"layer": 0, "expert": 99, "score": 1}]}, "not in the model"),
        ({"experts": [{"layer": 0, "expert": 1, "score": 1}] * 2}, "chosen twice"),
        ({"intervention": {"kind": "bias", "strength": -1}}, "intervention.strength"),
        ({"intervention": {"kind": "magic", "strength": 1}}, "intervention.kind"),
        ({"intervention": {"kind": "mask", "strength": 2}}, "strength of mask is 1"),
        (
            {"intervention": {"kind": "force", "strength": 1, "channel": "score"}},
            "channel `score` is for bias only",
        ),
        (
            {"experts": [{"layer": 0, "expert": 1, "score": 1, "activate": False}]},
            "bias cannot deactivate",
        ),
        ({"schema_version": 2}, "schema_version"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_bad_profile_is_refused_with_its_field(profile, tmp_path, change, words):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(json.loads(profile.to_json()) | change))
    with pytest.raises(SteeringError, match=words) as error:
        Profile.load(path)
    assert "p.json" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_what_is_no_profile_is_said_so(tmp_path, text):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(SteeringError, match="not a profile"):
        Profile.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(SteeringError, match="cannot be read"):
        Profile.load(tmp_path / "none.json")


def test_a_profile_cannot_be_changed(profile):
    with pytest.raises(ValidationError):
        profile.method = "other"
