"""Whose experts a variant takes, and at which strength."""

import numpy as np
import pytest

from dsmoe_eval.experts import RoutingCounts
from dsmoe_eval.steering import ModelIdentity, Source
from dsmoe_eval.variants import build_profile, get_variant, variant_experts

MODEL = ModelIdentity(name="m", fingerprint="f", routers="r", layers=(0, 1), experts=6)
SOURCE = Source(suite="s", domain="math", split="i", items=())


def counts():
    used = np.full((3, 2, 6), 10)
    for domain in range(3):
        used[domain, :, domain] = 30  # expert number d of both layers is domain d's
    return RoutingCounts(
        domains=("math", "law", "biology"), layers=(0, 1), top_k=2, markers=(),
        domain=np.arange(3), generated=np.zeros(3, dtype=bool), weight=np.ones(3),
        tokens=np.array([[20, 20]] * 3), used=np.stack([used - 5, used * 0 + 5], axis=1),
        gate=used * 0.5, contribution=None, marker_tokens=np.zeros((3, 0)),
        marked=np.zeros((3, 0, 2, 6)), has_saliency=True,
    )  # fmt: skip


def chosen(name):
    variant = get_variant(name)
    domain = "law" if variant.expert_source == "other_domain" else "math"
    experts = variant_experts(variant, counts(), domain, 2, seed=0)
    return {(expert.layer, expert.expert) for expert in experts}


def test_own_wrong_and_matched_experts():
    assert chosen("contrast") == {(0, 0), (1, 0)}
    assert chosen("wrong-domain") == {(0, 1), (1, 1)}
    assert chosen("random") <= {(layer, expert) for layer in (0, 1) for expert in range(1, 6)}
    assert chosen("sham") == chosen("contrast")


def test_a_null_variant_has_strength_zero_and_says_whose_experts():
    experts = variant_experts(get_variant("sham"), counts(), "math", 2, seed=0)
    sham = build_profile(get_variant("sham"), MODEL, experts, 7.0, SOURCE)
    assert sham.is_null
    random = build_profile(get_variant("random"), MODEL, experts, 7.0, SOURCE)
    assert random.intervention.strength == 7.0
    assert random.method == "risk-difference, random_matched"
    with pytest.raises(ValueError, match="is not steered"):
        build_profile(get_variant("base"), MODEL, experts, 7.0, SOURCE)


def test_force_names_experts_to_keep_out_and_its_placebo_does_too():
    experts = variant_experts(get_variant("steermoe"), counts(), "math", 4, seed=0)
    assert sum(one.activate for one in experts) == 2
    profile = build_profile(get_variant("steermoe"), MODEL, experts, 0.01, SOURCE)
    assert profile.intervention.kind == "force"
    placebo = get_variant("risk-difference+force+matched")
    matched = variant_experts(placebo, counts(), "math", 4, seed=0)
    assert [one.activate for one in matched] == [one.activate for one in experts]


def test_a_mask_has_one_strength():
    experts = variant_experts(get_variant("suppress"), counts(), "math", 2, seed=0)
    assert {(one.layer, one.expert) for one in experts} == chosen("contrast")
    assert build_profile(get_variant("suppress"), MODEL, experts, 7.0, SOURCE).is_null is False
    assert (
        build_profile(get_variant("suppress"), MODEL, experts, 7.0, SOURCE).intervention.strength
        == 1
    )
