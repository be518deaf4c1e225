"""A system against the mean of several random draws of a control."""

import numpy as np
import pytest
from scipy import stats

from dsmoe_eval.stats import compare_paired, compare_with_draws

RANDOM = np.random.default_rng(5)


def test_one_draw_is_the_paired_comparison():
    a, b = RANDOM.integers(0, 2, (2, 80))
    assert compare_with_draws(a[None], b) == compare_paired(a, b)


def test_the_variances_over_items_and_draws_are_added():
    """Against the formula, written out with scipy for graded scores without clusters."""
    draws, b = RANDOM.normal(0, 1, (4, 60)), RANDOM.normal(0.4, 1, 60)
    found = compare_with_draws(draws, b)
    items = compare_paired(draws.mean(0), b)
    reach = items.ci95[1] - items.delta
    of_items = (reach / stats.t.ppf(0.975, 59)) ** 2
    of_draws = draws.mean(1).var(ddof=1) / 4
    error = np.sqrt(of_items + of_draws)
    degrees = (of_items + of_draws) ** 2 / (of_items**2 / 59 + of_draws**2 / 3)
    assert found.delta == pytest.approx(b.mean() - draws.mean())
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.delta) / error, degrees))
    assert found.ci95[1] - found.delta == pytest.approx(stats.t.ppf(0.975, degrees) * error)
    assert found.test == "t over items and draws"


def test_equal_draws_add_nothing_but_the_test_of_graded_scores():
    a, b = RANDOM.normal(0, 1, (2, 50))
    found, alone = compare_with_draws(np.tile(a, (3, 1)), b), compare_paired(a, b)
    assert found.ci95 == pytest.approx(alone.ci95)
    assert found.p_value == pytest.approx(alone.p_value)


def test_the_interval_covers_the_mean_of_all_draws():
    """Right or wrong answers; the draws' true rates vary more than the items' noise."""
    covered, runs = 0, 400
    for _ in range(runs):
        ability = RANDOM.uniform(0.2, 0.8, 100)
        shifts = RANDOM.normal(0, 0.08, (3, 1))
        draws = RANDOM.random((3, 100)) < np.clip(ability + shifts, 0, 1)
        b = RANDOM.random(100) < ability
        low, high = compare_with_draws(draws.astype(float), b.astype(float)).ci95
        covered += low <= 0 <= high
    assert covered / runs >= 0.93  # 0.95 less two standard errors


def test_draws_must_be_rows_of_scores():
    with pytest.raises(ValueError, match="one row of scores per draw"):
        compare_with_draws(np.ones(5), np.ones(5))
    with pytest.raises(ValueError, match="align the two by item"):
        compare_with_draws(np.ones((2, 5)), np.ones(4))
