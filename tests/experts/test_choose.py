"""From scores to experts, and matched random ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.experts import best_experts, matched_experts

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
    with pytest.raises(ValueError, match="2 experts were asked for and 1 score above zero"):
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
