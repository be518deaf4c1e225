"""Whose experts a variant takes, and at which strength."""

import numpy as np
import pytest

from dsmoe_eval.experts import RoutingCounts, StreamMeans
from dsmoe_eval.steering import ModelIdentity, Source
from dsmoe_eval.variants import (
    Settings,
    build_profile,
    build_vector_profile,
    get_variant,
    variant_experts,
    variant_vectors,
)

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


def vectors(name, domain="math", layers=(0, 2), seed=0):
    sums = np.random.default_rng(1).normal(size=(3, 3, 5))
    means = StreamMeans(("math", "law", "biology"), np.array([2.0, 4.0, 1.0]), sums)
    return variant_vectors(get_variant(name), means, domain, layers, seed), means


def test_a_vector_is_the_difference_of_pooled_means():
    found, means = vectors("residual")
    others = (means.sums[1] + means.sums[2]) / 5
    assert list(found) == [0, 2]
    for layer, vector in found.items():
        expected = means.sums[0, layer] / 2 - others[layer]
        np.testing.assert_allclose(vector, expected, rtol=1e-6)
        assert np.array_equal(np.float32(vector), np.array(vector))
    assert vectors("residual+wrong", "law")[0] == vectors("residual", "law")[0]
    assert vectors("residual+sham")[0] == found


def test_a_random_vector_has_the_norm_and_only_that():
    found, drawn = vectors("residual")[0], vectors("residual+matched")[0]
    for layer, vector in drawn.items():
        np.testing.assert_allclose(np.linalg.norm(vector), np.linalg.norm(found[layer]), rtol=1e-6)
        assert vector != found[layer]
    others = [
        vectors("residual+matched-2")[0],
        vectors("residual+matched", seed=1)[0],
        vectors("residual+matched", domain="law")[0],
    ]
    directions = [np.array(one[0]) / np.linalg.norm(one[0]) for one in (drawn, *others)]
    assert len({tuple(one.round(6)) for one in directions}) == 4
    assert vectors("residual+matched", layers=(2,))[0][2] == drawn[2]  # whatever else is steered


def test_a_profile_of_vectors_says_whose():
    given = vectors("residual")[0]
    sham = build_vector_profile(get_variant("residual+sham"), MODEL, given, 2.0, SOURCE)
    assert sham.is_null
    second = build_vector_profile(get_variant("residual+matched-2"), MODEL, given, 2.0, SOURCE)
    assert second.method == "mean-difference, random_matched, draw 2"
    assert (second.intervention.kind, second.intervention.strength) == ("residual", 2.0)


def test_depths_are_the_nearest_layers_of_a_model():
    grid = [Settings(0, 1.0, depths=(depth,)) for depth in (0, 0.33, 0.67, 1)]
    assert [one.in_model(4).layers for one in grid] == [(0,), (1,), (2,), (3,)]
    assert Settings(0, 1.0, depths=(0.25, 0.75)).in_model(48) == Settings(0, 1.0, layers=(12, 35))
    assert Settings(0, 1.0, depths=(0.5, 0.6)).in_model(2).layers == (0, 1)
    assert Settings(8, 1.0).in_model(4) == Settings(8, 1.0)
