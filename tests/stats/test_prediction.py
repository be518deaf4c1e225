"""Predicted means: the textbook's interval, coverage of means to come, and pooled parts."""

import math

import numpy as np
import pytest
from scipy import stats

from dsmoe_eval.stats import pool_predictions, predict_mean, smallest_effect


def labels(count, start=0):
    return [f"c{number}" for number in range(start, start + count)]


def test_it_is_the_interval_of_the_mean_of_m_normal_values():
    """Symmetric values, so that nothing is added for what a one-sided sample hides."""
    half = np.random.default_rng(1).normal(size=20)
    values = 0.3 + np.concatenate([half, -half])
    found = predict_mean(np.zeros(40), values, None, labels(90))
    error = values.std(ddof=1) * math.sqrt(1 / 40 + 1 / 90)
    low, high = stats.t.interval(0.95, 39, loc=0.3, scale=error)
    assert found.ci95 == pytest.approx((low, high), rel=1e-9)
    assert (found.n, found.clusters, found.degrees) == (40, 40, pytest.approx(39))
    single = values.std(ddof=1) / math.sqrt(90)
    assert found.mde80 == pytest.approx(
        (stats.t.ppf(0.975, 89) + stats.t.ppf(0.8, 89)) * single, rel=1e-9
    )


@pytest.mark.parametrize("kind", ["binary", "unbounded", "clustered"])
def test_it_covers_means_to_come(kind):
    generator, covered, draws = np.random.default_rng(2), 0, 300
    for _ in range(draws):
        means = []
        for size in (60, 120):
            clusters = np.repeat(np.arange(size // 3), 3) if kind == "clustered" else None
            b = generator.normal(0.2, 1, size)
            if kind == "clustered":
                b = b + np.repeat(generator.normal(0, 1, size // 3), 3)
            if kind == "binary":
                b = generator.random(size) < 0.5
            a = generator.random(size) < 0.4 if kind == "binary" else np.zeros(size)
            means.append((a, b, clusters))
        (a, b, clusters), (later_a, later_b, coming) = means
        coming = labels(120) if coming is None else list(map(str, coming))
        low, high = predict_mean(a, b, clusters, coming).ci95
        covered += low <= np.mean(later_b.astype(float)) - np.mean(later_a.astype(float)) <= high
    assert 0.91 <= covered / draws <= 0.995  # 0.95 with a standard error of 0.013


def test_binary_items_show_what_mcnemars_test_shows():
    a, b = np.array([0, 0, 1, 1, 1] * 20), np.array([1, 0, 1, 1, 0] * 20)
    assert predict_mean(a, b, None, labels(300)).mde80 == smallest_effect(300, 0.4)


def test_no_change_at_all_foretells_none_of_unbounded_scores():
    values = np.linspace(-3, -1, 20)
    found = predict_mean(values, values, None, labels(5))
    assert (found.delta, found.ci95) == (0.0, (0.0, 0.0))
    low, high = predict_mean(np.ones(20), np.ones(20), None, labels(5)).ci95
    assert -0.5 < low < 0 < high < 0.5  # of so few right answers one of the next may be lost


def test_there_is_no_interval_of_one_cluster():
    found = predict_mean(np.zeros(3), np.arange(3.0), ["a"] * 3, labels(5))
    assert (found.delta, found.ci95, found.mde80) == (1.0, None, None)
    assert pool_predictions([found], [5]) is None
    with pytest.raises(ValueError, match="no item is to come"):
        predict_mean(np.zeros(3), np.arange(3.0), None, [])


def test_parts_are_pooled_by_their_items_to_come():
    generator = np.random.default_rng(3)
    first = predict_mean(np.zeros(30), generator.normal(1, 1, 30), None, labels(10))
    second = predict_mean(np.zeros(50), generator.normal(-1, 2, 50), None, labels(30))
    found = pool_predictions([first, second], [10, 30])
    assert found.delta == pytest.approx(0.25 * first.delta + 0.75 * second.delta)
    assert found.error == pytest.approx(math.hypot(0.25 * first.error, 0.75 * second.error))
    assert min(first.degrees, second.degrees) < found.degrees < first.degrees + second.degrees
    assert pool_predictions([first], [10]).ci95 == pytest.approx(first.ci95)


def test_parts_of_which_one_can_show_nothing_are_pooled_without_a_smallest_effect():
    values = np.array([0, 1, 1, 0, 1, 0, 1, 1.0])
    few = predict_mean(values, values[::-1], None, labels(3))
    many = predict_mean(values, values[::-1], None, labels(300))
    assert few.mde80 is None
    assert many.mde80 is not None
    found = pool_predictions([few, many], [3, 300])
    assert found.mde80 is None
    assert found.ci95[0] < found.delta < found.ci95[1]
