"""The artefact: strict, hashed by content, and clear when it is not a profile."""

import json
import re
from pathlib import Path

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


OLD = """{"schema_version": 1, "model": {"name": "tiny", "fingerprint": "0", "routers": "1",
"layers": [0, 2], "experts": 8}, "method": "trial", "experts": [{"layer": 0, "expert": 3,
"score": 0.5, "activate": true}], "intervention": {"kind": "bias", "strength": 2.0,
"channel": "logit"}, "source": {"suite": "none", "domain": "none", "split": "none", "items": [],
"phase": "prompt", "chat_template": false, "saliency_model": null, "engine": "transformers"}}"""


def test_a_profile_that_is_older_than_units_keeps_text_and_id():
    profile = Profile.from_json(OLD)
    assert profile.id == "4a80170386f768ab"  # computed before units were there
    assert json.loads(profile.to_json()) == json.loads(OLD)
    assert profile.intervention.unit == "odds"


def test_the_number_of_chunks_is_of_the_users_text_only():
    content = json.loads(OLD)
    content["source"] |= {"file": "mine.jsonl"}
    plain = Profile.from_json(json.dumps(content))
    assert "chunks" not in plain.to_json()
    content["source"]["chunks"] = 4
    given = Profile.from_json(json.dumps(content))
    assert json.loads(given.to_json()) == content
    assert given.id != plain.id


def test_each_expert_may_have_a_shift_of_its_own():
    content = json.loads(OLD)
    content["intervention"] |= {"unit": "scores"}
    content["experts"][0]["score"] = -0.5
    profile = Profile.from_json(json.dumps(content))
    assert json.loads(profile.to_json()) == content
    assert profile.id != Profile.from_json(OLD).id
    assert profile.with_strength(0).is_null
    for wrong in ({"kind": "reweight"}, {"channel": "score"}, {"sigmas": [[0, 0.1]]}):
        content["intervention"] = {"kind": "bias", "strength": 2.0, "channel": "logit"}
        content["intervention"] |= {"unit": "scores"} | wrong
        with pytest.raises(SteeringError, match="unit `s"):
            Profile.from_json(json.dumps(content))


def test_a_profile_in_sigma_carries_the_sigmas(tmp_path):
    content = json.loads(OLD)
    content["intervention"] |= {"unit": "sigma", "sigmas": [[0, 0.1], [2, 0.25]]}
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    profile = Profile.load(path)
    assert profile.id != Profile.from_json(OLD).id
    assert Profile.from_json(profile.to_json()) == profile
    for channel, change, words in (
        ("logit", {"sigmas": [[2, 0.25]]}, "the sigma of every layer"),
        ("logit", {"sigmas": [[0, 0.1], [0, 0.2]]}, "two sigmas"),
        ("logit", {"sigmas": [[0, 0.0]]}, r"sigmas.*greater than 0"),
        ("logit", {"unit": "odds"}, "sigmas go with unit `sigma` only"),
        ("score", {}, "not for the score channel"),
        ("logit", {"kind": "reweight"}, "bias on the logits only, not for reweight"),
    ):
        changed = content["intervention"] | {"channel": channel} | change
        path.write_text(json.dumps(content | {"intervention": changed}))
        with pytest.raises(SteeringError, match=words):
            Profile.load(path)


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


def put(name, value):
    """A change of the first number or boolean of that name in a profile's text."""
    return lambda text: re.sub(rf'"{name}": [\w."]+', f'"{name}": {value}', text, count=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (put("method", '"x", "method": "y"'), "'method' is repeated"),
        (put("strength", '0, "strength": 4.0'), "'strength' is repeated"),
        (put("strength", "true"), "strength: .*number"),
        (put("strength", '"4"'), "strength: .*number"),
        (put("strength", "1e999"), "strength: .*finite"),
        (put("score", "Infinity"), "score: .*finite"),
        (put("score", "NaN"), "score: .*finite"),
        (put("score", "-1e400"), "score: .*finite"),
        (put("layer", "false"), "layer: .*integer"),
        (put("expert", "true"), "expert: .*integer"),
        (put("activate", "1"), "activate: .*boolean"),
        (put("schema_version", "true"), "schema_vers"),
        (lambda _: '{"a":' * 100_000, "recursion"),
        (lambda text: text + " " * 64_000_000, "larger than 64 MB"),
    ],
)
def test_case_16_what_json_reads_in_two_ways_is_no_profile(tmp_path, profile, make, words):
    text = profile.to_json()
    Profile.from_json(text)
    path = tmp_path / "p.json"
    path.write_text(make(text))
    assert path.read_text() != text
    with pytest.raises(SteeringError, match=words) as error:
        Profile.load(path)
    assert "p.json: not a profile" in str(error.value)
    assert "\n" not in str(error.value)


def test_case_14_a_device_is_no_profile(tmp_path):
    for path in (Path("/dev/zero"), Path("/dev/stdin"), tmp_path):
        with pytest.raises(SteeringError, match=f"{path}: is not a regular file"):
            Profile.load(path)
    with pytest.raises(SteeringError, match="cannot be read"):
        Profile.load(Path("a\0b"))


def test_a_missing_file(tmp_path):
    with pytest.raises(SteeringError, match="cannot be read"):
        Profile.load(tmp_path / "none.json")


def test_a_profile_cannot_be_changed(profile):
    with pytest.raises(ValidationError):
        profile.method = "other"
