"""Both adjustments against their hand-written steps and defining properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from dsmoe_eval.stats import benjamini_hochberg, holm

FEW = settings(deadline=None, max_examples=100)


p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def step_down(p_values: list[float], alpha: float) -> list[bool]:
    """Holm (1979) as written: reject from the smallest p-value on, stop at the first failure."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - rank) > alpha:
            break
        rejected[index] = True
    return rejected


def test_it_equals_statsmodels() -> None:
    p_values = np.random.default_rng(0).random(30) ** 3
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-12)


def test_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(p_lists)
@FEW
def test_adjusted_values_reject_as_the_step_down_does(p_values) -> None:
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.2, 0.5, 0.9):
        assert (adjusted <= alpha).tolist() == step_down(p_values, alpha)


@given(p_lists, st.randoms(use_true_random=False))
@FEW
def test_adjusted_values_keep_order_bounds_and_place(p_values, random) -> None:
    raw, adjusted = np.array(p_values), holm(p_values)
    assert (adjusted >= raw).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    order = list(range(raw.size))
    random.shuffle(order)
    assert holm(raw[order]).tolist() == adjusted[order].tolist()


def test_one_test_stays_as_it_is() -> None:
    assert holm([0.03]).tolist() == [0.03]


def test_no_tests_give_an_empty_array() -> None:
    empty = holm([])
    assert empty.shape == (0,)
    assert empty.dtype == np.float64


@pytest.mark.parametrize("bad", [math.nan, -0.01, 1.01, math.inf])
def test_a_value_that_is_no_probability_is_refused(bad) -> None:
    with pytest.raises(ValueError, match="p_values holds"):
        holm([0.5, bad])


def test_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        holm([[0.1, 0.2]])


@given(p_lists)
@FEW
def test_benjamini_hochberg_equals_the_step_up_and_keeps_the_shape(values) -> None:
    """Reject the k smallest, for the largest k whose k-th value is at most k q / m."""
    table = np.array(values + values).reshape(2, -1)
    adjusted, m = benjamini_hochberg(table), table.size
    assert adjusted.shape == table.shape
    for q in (0.01, 0.05, 0.3):
        ranked = np.sort(table, axis=None)
        passing = np.flatnonzero(ranked * m <= q * np.arange(1, m + 1))
        limit = ranked[passing[-1]] if passing.size else -1.0
        near = np.abs(adjusted - q) < 1e-9  # where rounding decides
        assert ((adjusted <= q) == (table <= limit))[~near].all()


def test_benjamini_hochberg_checks_its_input() -> None:
    assert benjamini_hochberg([]).shape == (0,)
    for wrong in ([0.5, np.nan], [[1.1]]):
        with pytest.raises(ValueError, match="p_values holds"):
            benjamini_hochberg(wrong)
