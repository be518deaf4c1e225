"""Intervals by Student's t, against scipy and against resampling."""

import numpy as np
import pytest
from scipy import stats

from dsmoe_eval.stats import mean_interval, ratio_interval


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(0).normal(2.0, 1.0, 12)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((expected.low, expected.high))
    assert mean_interval([1.0]) is None
    assert ratio_interval([1.0], [2.0]) is None


def test_with_equal_sizes_the_ratio_is_a_mean():
    values = np.random.default_rng(1).normal(2.0, 1.0, 9)
    assert ratio_interval(3 * values, np.full(9, 3.0)) == pytest.approx(mean_interval(values))


def test_the_interval_of_a_ratio_covers_at_its_level():
    draw, inside = np.random.default_rng(2), 0
    for _ in range(2000):
        sizes = draw.uniform(1, 3, 40)
        totals = sizes * 2 + sizes * draw.normal(0, 0.5, 40)
        low, high = ratio_interval(totals, sizes)
        inside += low <= 2 <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)
