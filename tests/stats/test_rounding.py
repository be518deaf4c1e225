"""Sums of the same parts in another order are equal, in every test."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.stats import compare_paired, non_inferiority
from dsmoe_eval.stats.rounding import ROUNDING

SCORES = st.lists(st.lists(st.floats(0, 0.2), min_size=3, max_size=5), min_size=2, max_size=30)


def in_two_orders(parts):
    """Sums of the same parts, forwards and backwards."""
    return np.array([sum(p) for p in parts]), np.array([sum(reversed(p)) for p in parts])


@given(parts=SCORES, cluster=st.integers(1, 3))
def test_case_02_parts_added_in_another_order_are_no_difference(parts, cluster):
    a, b = in_two_orders(parts)
    for clusters in (None, np.arange(a.size) // cluster):
        found = compare_paired(a, b, clusters)
        assert (found.gained, found.lost, found.delta, found.p_value) == (0, 0, 0, 1)
        bound = non_inferiority(a, b, 0.05, clusters=clusters)
        assert (bound.gained, bound.lost, bound.delta) == (0, 0, 0)


def test_case_02_rounding_makes_no_binary_score_a_graded_one():
    a = np.array([0.1 + 0.2 + 0.7, 1 - 1e-16, 0.0, 0.3 - 0.1 - 0.2])
    found = compare_paired(a, [1, 1, 1, 0])
    assert (found.test, found.gained, found.lost) == ("mid-p McNemar", 1, 0)
    above = compare_paired(np.array([1 + 2e-16, 0.5, 0.2]), [1.0, 0.5, 0.2])
    assert above.ci95[1] <= 1


def test_case_02_differences_above_the_tolerance_count():
    a = np.array([0.5, 0.25, -100.0, 0.01])
    assert compare_paired(a, a * (1 + 3 * ROUNDING)).gained == 3
    assert compare_paired(a, a * (1 + 3 * ROUNDING)).lost == 1
    assert compare_paired(a, a * (1 + ROUNDING / 3)).gained == 0
