"""From scores to experts, and matched random ones."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsmoe_eval.experts import (
    all_methods,
    best_experts,
    choose_experts,
    count_routing,
    exposure,
    exposure_gaps,
    matched_experts,
    signed_experts,
    smallest_sets,
)
from dsmoe_eval.steering import ChosenExpert

from .conftest import random_pass

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 10))
def test_the_best_over_all_layers(seed, count):
    scores = np.random.default_rng(seed).random((3, 7)) + 0.01
    chosen = best_experts(scores, (0, 2, 5), count)
    values = sorted(scores.ravel(), reverse=True)[:count]
    assert [expert.score for expert in chosen] == values
    for expert in chosen:
        assert scores[(0, 2, 5).index(expert.layer), expert.expert] == expert.score


def test_experts_without_a_positive_score_are_not_taken():
    scores = np.array([[0.5, 0.0, -1.0]])
    assert len(best_experts(scores, (0,), 1)) == 1
    with pytest.raises(ValueError, match=r"E\* needs 2 experts, but only 1 score above zero"):
        best_experts(scores, (0,), 2)


@given(SEEDS, st.integers(1, 6), SEEDS)
def test_matched_experts_share_layers_and_none_is_chosen(seed, count, draw):
    generator = np.random.default_rng(seed)
    exposure = generator.random((3, 12))
    chosen = best_experts(generator.random((3, 12)) + 0.01, (0, 1, 2), count)
    matched = matched_experts(chosen, exposure, (0, 1, 2), draw)
    assert [m.layer for m in matched] == [c.layer for c in chosen]
    pairs = {(m.layer, m.expert) for m in matched}
    assert len(pairs) == count
    assert not pairs & {(c.layer, c.expert) for c in chosen}
    assert matched == matched_experts(chosen, exposure, (0, 1, 2), draw)


def test_exposure_is_matched_within_a_tenth_where_it_can_be():
    exposure = np.array([[0.50, 0.10, 0.52, 0.47, 0.90]])
    chosen = best_experts(np.array([[1.0, 0, 0, 0, 0]]), (0,), 1)
    picks = {matched_experts(chosen, exposure, (0,), seed)[0].expert for seed in range(50)}
    assert picks == {2, 3}


def test_the_nearest_where_none_is_within_a_tenth():
    exposure = np.array([[0.50, 0.10, 0.70]])
    chosen = best_experts(np.array([[1.0, 0, 0]]), (0,), 1)
    assert matched_experts(chosen, exposure, (0,), 0)[0].expert == 2


def test_a_layer_with_no_expert_left_is_refused():
    chosen = best_experts(np.ones((1, 2)), (0,), 2)
    with pytest.raises(ValueError, match="no expert left"):
        matched_experts(chosen, np.ones((1, 2)), (0,), 0)


def test_an_expert_that_was_chosen_is_no_match_however_near():
    exposure = np.array([[0.50, 0.52, 0.90, 0.40]])
    chosen = best_experts(np.array([[2.0, 0, 1.0, 0]]), (0,), 2)
    matched = matched_experts(chosen, exposure, (0,), 0)
    assert [one.expert for one in matched] == [1, 3]


@given(SEEDS, st.floats(0.05, 1.2))
def test_smallest_sets_are_the_smallest_that_reach_the_share(seed, share):
    scores = np.random.default_rng(seed).dirichlet(np.ones(7), 3)
    chosen = smallest_sets(scores, (0, 2, 5), share)
    for row, layer in enumerate((0, 2, 5)):
        taken = [one.score for one in chosen if one.layer == layer]
        ranked = sorted(scores[row], reverse=True)
        assert taken == ranked[: len(taken)]
        assert len(taken) == 7 or sum(taken) >= share
        assert sum(taken[:-1]) < share


@given(SEEDS, st.integers(1, 4))
def test_forced_experts_are_those_of_the_largest_difference_that_fit(seed, count):
    scores = np.random.default_rng(seed).normal(size=(2, 6))
    chosen = signed_experts(scores, (0, 1), count, top_k=2)
    assert len(chosen) == count
    for one in chosen:
        assert one.score == scores[one.layer, one.expert]
        assert one.activate == (one.score > 0)
    for layer in (0, 1):
        own = [one for one in chosen if one.layer == layer]
        assert sum(one.activate for one in own) <= 2
        assert sum(not one.activate for one in own) <= 4
    sizes = [abs(one.score) for one in chosen]
    assert sizes == sorted(sizes, reverse=True)
    taken = {(one.layer, one.expert) for one in chosen}
    for (layer, expert), value in np.ndenumerate(scores):
        full = sum(o.layer == layer and o.activate == (value > 0) for o in chosen)
        room = 2 if value > 0 else 4
        assert (layer, expert) in taken or full == room or abs(value) <= sizes[-1]


def test_more_than_can_be_forced_is_refused():
    with pytest.raises(ValueError, match=r"E\* needs 4 experts, but only 3 can be forced"):
        signed_experts(np.array([[1.0, 2.0, -1.0, 0.0]]), (0,), 4, top_k=2)


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_methods_choose_by_their_own_rules(seed):
    methods = all_methods()
    with random_pass(seed) as (seen, _):
        counts = count_routing(seen)
        gate = methods["esft-gate"]
        assert choose_experts(gate, counts, "one") == smallest_sets(
            gate.score(counts, "one"), (0, 2), 0.1
        )
        assert len(choose_experts(gate, counts, "one", 3)) == 3
        assert len(choose_experts(methods["frequency"], counts, "one")) == 1
        difference = methods["risk-difference"]
        signed = choose_experts(difference, counts, "one", 4, signed=True)
        assert signed == signed_experts(difference.score(counts, "one"), (0, 2), 4, 2)
        assume((methods["dsmoe"].score(counts, "one") > 0).any())
        real = choose_experts(methods["dsmoe"], counts, "one", 1)
        drawn = choose_experts(methods["random"], counts, "one", 1, seed=seed)
        assert drawn == matched_experts(real, exposure(counts), (0, 2), seed)


@pytest.mark.parametrize("domain", ["intent", "law", "summary", "translation"])
def test_the_authors_scores_and_threshold_give_the_authors_experts(domain, real_data):
    """DeepSeek's ESFT model: 26 layers of 64 experts, token scores, p = 0.2."""
    data = real_data("esft_moe_domain_experts") / "esft_moe_domain_experts"
    file = json.loads((data / f"expert_scores_{domain}.summary.json").read_text())["token_scores"]
    layers = [int(layer) for layer in file]
    scores = np.array([[file[layer][str(e)] for e in range(64)] for layer in file])
    theirs = json.loads((data / f"expert_config_{domain}.json").read_text())["experts"]
    share = all_methods()["esft-token"].layer_share
    ours = smallest_sets(scores, layers, share)
    for layer, experts in theirs.items():
        assert [one.expert for one in ours if one.layer == int(layer)] == experts


def test_a_further_draw_can_differ_where_one_expert_alone_is_near():
    exposure = np.array([[0.50, 0.52, 0.90, 0.40, 0.10]])
    chosen = best_experts(np.array([[2.0, 0, 0, 0, 0]]), (0,), 1)
    first = {matched_experts(chosen, exposure, (0,), seed)[0].expert for seed in range(20)}
    second = {matched_experts(chosen, exposure, (0,), seed, 2)[0].expert for seed in range(20)}
    third = {matched_experts(chosen, exposure, (0,), seed, 3)[0].expert for seed in range(40)}
    assert (first, second, third) == ({1}, {1, 3}, {1, 3, 2})  # the one, two and three nearest


def test_exposure_gaps_are_relative_and_in_order():
    exposure = np.array([[0.50, 0.40], [0.0, 0.3]])
    chosen = [ChosenExpert(layer=4, expert=0, score=1), ChosenExpert(layer=7, expert=1, score=1)]
    matched = [ChosenExpert(layer=4, expert=1, score=1), ChosenExpert(layer=7, expert=1, score=1)]
    gaps, total = exposure_gaps(chosen, matched, exposure, (4, 7))
    assert gaps == pytest.approx([-0.2, 0.0])
    assert total == pytest.approx((0.7 - 0.8) / 0.8)
    gaps, _ = exposure_gaps([chosen[1].model_copy(update={"expert": 0})], matched[1:], exposure,
                            (4, 7))  # fmt: skip
    assert np.isinf(gaps[0])
