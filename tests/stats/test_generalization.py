"""Metrics of gain and cost, by hand."""

import math

import numpy as np
import pytest

from dsmoe_eval.stats import (
    compare_paired,
    gain_over_control,
    non_target_change,
    retention,
    target_gain,
)


def test_gain_and_retention_of_a_small_example() -> None:
    base, steered = [1, 0, 1, 0], [1, 1, 1, 0]
    assert target_gain(base, steered) == 0.25
    assert retention(base, steered) == 1.5
    assert retention(steered, base) == pytest.approx(2 / 3)
    assert math.isnan(retention([0, 0], [0, 1]))


def test_change_of_non_targets_pools_items_and_names_the_worst() -> None:
    found = non_target_change(
        {"law": ([1, 1], [0, 1]), "math": ([0.5, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0.25])}
    )
    assert found.pooled == pytest.approx((-1 + 0.75) / 8)
    assert found.macro == pytest.approx((-0.5 + 0.125) / 2)
    assert (found.worst, found.worst_domain) == (-0.5, "law")
    with pytest.raises(ValueError, match="no non-target domain"):
        non_target_change({})


def test_gain_over_placebo_is_the_difference_of_gains() -> None:
    rng = np.random.default_rng(0)
    base, placebo, variant = rng.integers(0, 2, (3, 60))
    found = gain_over_control(placebo, variant)
    expected = target_gain(base, variant) - target_gain(base, placebo)
    assert found.delta == pytest.approx(expected)
    assert found.p_value == compare_paired(placebo, variant).p_value
