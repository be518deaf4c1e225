"""The interval of one mean score, against closed forms, statsmodels and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dsmoe_eval.stats import score_interval


@given(n=st.integers(1, 60), share=st.floats(0, 1))
def test_of_single_binary_items_it_is_wilsons(n, share):
    right = round(n * share)
    scores = np.arange(n) < right
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert score_interval(scores) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_copies_of_an_item_say_no_more_than_one():
    scores = np.array([1, 0, 0, 1, 0, 0, 0, 1.0])
    alone = score_interval(scores)
    copied = score_interval(np.repeat(scores, 5), np.repeat(np.arange(8), 5))
    assert np.subtract(*alone[::-1]) <= np.subtract(*copied[::-1]) < 1.1 * np.subtract(*alone[::-1])
    same = score_interval(np.ones(40), np.repeat(np.arange(8), 5))
    assert same == pytest.approx(score_interval(np.ones(8)))


def test_means_of_several_answers_are_known_better():
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.45, 0.55, 50)
    single, means = generator.random(50) < chance, generator.binomial(16, chance) / 16
    widths = [np.subtract(*score_interval(x)[::-1]) for x in (single, means)]
    assert widths[1] < 0.4 * widths[0]


def test_nineteen_of_twenty_hold_the_truth():
    """Clusters of three that share their luck."""
    generator, held = np.random.default_rng(1), 0
    clusters = np.repeat(np.arange(60), 3)
    for _ in range(600):
        scores = generator.random(180) < np.repeat(generator.beta(2, 3, 60), 3)
        low, high = score_interval(scores, clusters)
        held += low <= 0.4 <= high
    assert 0.93 <= held / 600 <= 0.975  # 2.3 standard errors of 0.95


def test_what_has_no_such_interval():
    assert np.isnan(score_interval([-3.0, 0.5])).all()
    with pytest.raises(ValueError, match="not finite"):
        score_interval([np.nan, 1.0])
    with pytest.raises(ValueError, match="one per item"):
        score_interval([])
