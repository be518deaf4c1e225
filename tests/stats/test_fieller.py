"""Fieller's interval: against scipy's t test at its ends, by hand for clusters, and by coverage."""

import numpy as np
import pytest
from scipy import stats

from dsmoe_eval.stats import compare_paired, fieller_interval, ratio_of_gains


def draws(random, n, share=0.5, noise=0.6):
    """Scores of base, of an arm, and of the best one, whose mean gain is 0.4."""
    base, both = random.normal(0, 1, n), random.normal(0, 0.5, n)
    best = base + 0.4 + both + random.normal(0, noise, n)
    return base, base + share * (0.4 + both) + random.normal(0, noise, n), best


def gains_of(base, arm, best):
    return arm - base, best - base


def p_at(ratio, one, other):
    return stats.ttest_1samp(one - ratio * other, 0).pvalue


def test_at_its_ends_the_t_test_refuses_no_more():
    one, other = gains_of(*draws(np.random.default_rng(0), 80))
    ends = fieller_interval((one.mean(), other.mean()), np.cov(one, other) / 80, 79)
    assert [p_at(end, one, other) for end in ends] == pytest.approx([0.05, 0.05])
    assert p_at(np.mean(ends), one, other) > 0.05 > p_at(ends[1] + 0.1, one, other)
    assert ends[0] < one.mean() / other.mean() < ends[1]


def test_without_a_sure_gain_there_is_no_interval():
    random = np.random.default_rng(3)
    one, other = random.normal(0.3, 1, 50), random.normal(0, 1, 50)
    assert stats.ttest_1samp(other, 0).pvalue > 0.05
    assert fieller_interval((one.mean(), other.mean()), np.cov(one, other) / 50, 49) is None
    base = np.zeros(50)
    assert ratio_of_gains(base, one, other).ci95 is None
    assert ratio_of_gains(base, one, base).value is None
    assert ratio_of_gains(base, one, other + 5, np.zeros(50)).ci95 is None  # one cluster
    assert ratio_of_gains(base, one, other + 5).ci95 is not None


def test_it_is_a_little_wider_than_by_scipy_for_what_a_sample_hides():
    scores = draws(np.random.default_rng(0), 200)
    found, (one, other) = ratio_of_gains(*scores), gains_of(*scores)
    assert found.value == pytest.approx(one.mean() / other.mean())
    plain = fieller_interval((one.mean(), other.mean()), np.cov(one, other) / 200, 199)
    assert found.ci95 == pytest.approx(plain, abs=0.03)
    assert found.ci95[0] <= plain[0] < plain[1] <= found.ci95[1]


def test_clusters_of_one_size_are_their_means():
    scores = draws(np.random.default_rng(1), 120)
    found = ratio_of_gains(*scores, np.arange(120) // 4)
    alone = ratio_of_gains(*(side.reshape(30, 4).mean(1) for side in scores))
    assert found.value == pytest.approx(alone.value)
    assert found.ci95 == pytest.approx(alone.ci95)


def test_the_covariance_of_clusters_of_unequal_size_by_hand():
    """Where the other gain is the arm's and a constant, variances and covariance are one."""
    random = np.random.default_rng(2)
    base, arm, _ = draws(random, 90)
    labels = random.integers(0, 25, 90)
    found = ratio_of_gains(base, arm, arm + 1, labels)
    gain, variance, squares, leverage, fourth = arm - base, 0.0, 0.0, 0.0, 0.0
    for label in np.unique(labels):
        rows = labels == label
        share = rows.mean()
        variance += (gain[rows] - gain.mean()).sum() ** 2 / (1 - share) / 90**2
        squares, leverage = squares + share**2, leverage + share**2 / (1 - share)
        fourth += (share**2 / (1 - share)) ** 2
    square = stats.t.ppf(0.975, 1 / (squares + leverage**2 - fourth)) ** 2
    whole = compare_paired(base, arm, labels)
    reach = whole.ci95[1] - whole.delta
    assert reach**2 > square * variance
    for end in found.ci95:
        left = (gain.mean() - end * (gain.mean() + 1)) ** 2
        assert left == pytest.approx(reach**2 * (1 + end**2) - 2 * end * square * variance)


def test_an_arm_has_all_of_its_gain():
    base, _, best = draws(np.random.default_rng(4), 200)
    found = ratio_of_gains(base, best, best)
    assert (found.value, found.ci95) == (pytest.approx(1), pytest.approx((1, 1), abs=0.1))


def covered(runs, items, share=0.5, seed=5):
    """The share of runs whose interval holds the ratio, of answers that are right or wrong."""
    random, found = np.random.default_rng(seed), 0
    for _ in range(runs):
        level, effect = random.random(items), random.random(items)
        base = level < 0.3
        best = base | (effect < 0.4)
        arm = (base | (effect < 0.4 * share)) & (random.random(items) > 0.02)
        truth = ((0.3 + 0.7 * 0.4 * share) * 0.98 - 0.3) / (0.7 * 0.4)
        ends = ratio_of_gains(base, arm, best).ci95
        found += ends is None or ends[0] <= truth <= ends[1]
    return found / runs


def test_the_interval_covers_the_ratio():
    assert covered(400, 150) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.full
@pytest.mark.parametrize("items", [40, 150, 300])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_interval_covers_small_and_large_shares(items, share):
    assert covered(20_000, items, share) >= 0.935
