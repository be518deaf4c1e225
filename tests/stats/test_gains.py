"""Gain against gain: against scipy's paired t, by hand for clusters, and where base cancels."""

import numpy as np
import pytest
from scipy import stats

from dsmoe_eval.stats import compare_gains, compare_paired

RANDOM = np.random.default_rng(7)


def draws(count=4, items=200):
    return list(RANDOM.normal(0, 1, (count, items)))


def right(items=200):
    return [RANDOM.random(items) < share for share in (0.3, 0.6, 0.4, 0.5)]


def test_unbounded_gains_are_a_paired_t_test():
    """A normal sample is hardly one-sided, so that the margin for what it hides is small."""
    base_a, arm_a, base_b, arm_b = draws()
    found = compare_gains(base_a, arm_a, base_b, arm_b)
    one, two = arm_a - base_a, arm_b - base_b
    known = stats.ttest_rel(two, one)
    assert (found.score_a, found.score_b) == pytest.approx((one.mean(), two.mean()))
    assert found.delta == pytest.approx((two - one).mean())
    assert found.p_value == pytest.approx(known.pvalue, rel=0.05)
    assert found.ci95 == pytest.approx(tuple(known.confidence_interval()), abs=0.01)
    assert (found.gained, found.lost) == (int((two > one).sum()), int((two < one).sum()))
    assert found.test == "paired t"


def test_right_or_wrong_answers_are_a_t_test_of_four_of_each_item():
    base_a, arm_a, base_b, arm_b = right()
    found = compare_gains(base_a, arm_a, base_b, arm_b)
    parts = [part.astype(int) for part in (base_a, arm_a, base_b, arm_b)]
    change = parts[3] - parts[2] - parts[1] + parts[0]
    reach = stats.t.ppf(0.975, 199) * change.std(ddof=1) / np.sqrt(200)
    assert found.delta == pytest.approx(change.mean())
    assert found.ci95[1] - found.delta == pytest.approx(reach, rel=0.02)
    assert found.ci95[1] - found.delta >= reach
    assert found.p_value == pytest.approx(stats.ttest_1samp(change, 0).pvalue, rel=0.1)
    assert found.mde80 > found.ci95[1] - found.delta


def test_swapped_situations_turn_the_sign():
    one, two, three, four = right()
    found, back = compare_gains(one, two, three, four), compare_gains(three, four, one, two)
    assert back.delta == pytest.approx(-found.delta)
    assert back.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))
    assert back.p_value == pytest.approx(found.p_value)


def test_repeated_items_of_a_cluster_say_no_more():
    sides = right(60)
    alone = compare_gains(*sides)
    four = compare_gains(*(np.tile(side, 4) for side in sides), np.tile(np.arange(60), 4))
    assert (four.n, four.clusters) == (240, 60)
    assert four.ci95 == pytest.approx(alone.ci95)
    assert four.test == "cluster-robust t"


def test_an_equal_base_cancels():
    base, arm_a, _, arm_b = right()
    found, arms = compare_gains(base, arm_a, base, arm_b), compare_paired(arm_a, arm_b)
    assert (found.delta, found.ci95, found.p_value, found.test) == (
        arms.delta, arms.ci95, arms.p_value, "mid-p McNemar",
    )  # fmt: skip
    assert found.score_a == pytest.approx(arm_a.mean() - base.mean())
    assert found.score_b == pytest.approx(arm_b.mean() - base.mean())


def test_a_bound_is_not_left():
    worst, best = np.zeros(4), np.ones(4)
    found = compare_gains(worst, best, best, worst)
    assert (found.score_a, found.score_b, found.delta) == (1, -1, -2)
    assert found.ci95[0] == -2
    assert found.ci95[1] < 0 or found.p_value > 0.05


def test_items_must_be_the_same():
    base, arm, *_ = right(5)
    with pytest.raises(ValueError, match="align the two by item"):
        compare_gains(base, arm, base[:4], arm[:4])


def test_no_difference_is_found_where_there_is_none():
    """The share of false alarms at 0.05, of gains that are drawn alike on two models."""
    alarms = 0
    for _ in range(400):
        sides = [RANDOM.random(120) < share for share in (0.3, 0.5, 0.2, 0.4)]
        alarms += compare_gains(*sides).p_value <= 0.05
    assert alarms / 400 < 0.09
