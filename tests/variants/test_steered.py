"""Whose experts a variant takes, and at which strength."""

import numpy as np
import pytest

from dsmoe_eval.experts import RoutingCounts
from dsmoe_eval.steering import ModelIdentity, Source
from dsmoe_eval.variants import VARIANTS, build_profile, choose_experts

MODEL = ModelIdentity(name="m", fingerprint="f", routers="r", layers=(0, 1), experts=6)
SOURCE = Source(suite="s", domain="math", split="i", items=())


def counts():
    used = np.full((3, 2, 6), 10)
    for domain in range(3):
        used[domain, :, domain] = 30  # expert number d of both layers is domain d's
    return RoutingCounts(
        domains=("math", "law", "biology"), layers=(0, 1), tokens=np.array([40, 40, 40]),
        used=used, used_salient=used - 5,
    )  # fmt: skip


def chosen(name):
    experts = choose_experts(VARIANTS[name], counts(), "math", "law", 2, seed=0)
    return {(expert.layer, expert.expert) for expert in experts}


def test_own_wrong_and_matched_experts():
    assert chosen("contrast") == {(0, 0), (1, 0)}
    assert chosen("wrong-domain") == {(0, 1), (1, 1)}
    assert chosen("random") <= {(layer, expert) for layer in (0, 1) for expert in range(1, 6)}
    assert chosen("sham") == chosen("contrast")


def test_a_null_variant_has_strength_zero_and_says_whose_experts():
    experts = choose_experts(VARIANTS["sham"], counts(), "math", "law", 2, seed=0)
    sham = build_profile(VARIANTS["sham"], MODEL, experts, 7.0, SOURCE)
    assert sham.is_null
    random = build_profile(VARIANTS["random"], MODEL, experts, 7.0, SOURCE)
    assert random.intervention.strength == 7.0
    assert random.method == "risk-difference, matched"
    with pytest.raises(ValueError, match="is not steered"):
        build_profile(VARIANTS["base"], MODEL, experts, 7.0, SOURCE)
