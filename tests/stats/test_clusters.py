"""Differences by cluster, and the sign-flip test against enumeration and scipy."""

from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, permutation_test

from dsmoe_eval.stats.clusters import (
    as_scores,
    cluster_codes,
    clustered_differences,
    fair_binomial,
    joined,
    sign_flip_p_value,
)


def differences(sums, clusters=None):
    """Differences of B against an A that scores nothing."""
    b = np.asarray(sums, dtype=float)
    return clustered_differences(np.zeros(b.size), b, cluster_codes(clusters, b.size))


def test_sums_and_sizes_of_a_small_example() -> None:
    found = clustered_differences(
        np.array([0.5, 0.0, 1.0, 0.25]),
        np.array([1.0, 0.0, 0.0, 0.5]),
        cluster_codes(["x", "y", "x", "z"], 4),
    )
    assert found.sums.tolist() == [-0.5, 0.0, 0.25]
    assert found.sizes.tolist() == [2, 1, 1]
    assert (found.delta, found.largest, found.bounded) == (-0.0625, 0.25, True)


def test_standard_error_of_single_items_is_the_textbooks() -> None:
    values = np.random.default_rng(3).normal(size=40)
    expected = values.std(ddof=1) / np.sqrt(40)
    assert differences(values).standard_error == pytest.approx(expected, rel=1e-12)
    assert np.isnan(differences([1.0, 2.0], [7, 7]).standard_error)


def test_standard_error_of_clusters_is_the_regressions() -> None:
    """Of the intercept, robust to clusters; statsmodels corrects by (n - 1) / (n - 1) as well."""
    import statsmodels.api as sm

    rng = np.random.default_rng(4)
    codes = rng.integers(0, 12, 60)
    values = rng.normal(size=60) + rng.normal(size=12)[codes]
    fit = sm.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert differences(values, codes).standard_error == pytest.approx(fit.bse[0], rel=1e-9)


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_few_clusters_equal_brute_force_with_integers(eighths) -> None:
    flips = [abs(sum(each)) for each in product(*((-x, x) for x in eighths))]
    expected = Fraction(sum(f >= abs(sum(eighths)) for f in flips), len(flips))
    p_value, name = sign_flip_p_value(differences([x / 8 for x in eighths]), 0)
    assert p_value == pytest.approx(float(expected), abs=1e-12)
    assert name == "sign-flip permutation, exact"


def test_few_clusters_equal_scipys_permutation_test() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, size=11)
    other = permutation_test(
        (values, np.zeros(11)), lambda x, y, axis: (x - y).sum(axis),
        permutation_type="samples", vectorized=True, n_resamples=np.inf,
    )  # fmt: skip
    assert sign_flip_p_value(differences(values), 0)[0] == pytest.approx(other.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [17, 60, 1001])
def test_many_clusters_come_near_the_normal_law(n) -> None:
    values = np.random.default_rng(n).normal(1.6 / np.sqrt(n), 1, size=n)
    other = permutation_test(
        (values, np.zeros(n)), lambda x, y, axis: (x - y).sum(axis),
        permutation_type="samples", vectorized=True, n_resamples=9999,
        rng=np.random.default_rng(5),
    )  # fmt: skip
    p_value, name = sign_flip_p_value(differences(values), 0)
    error = np.sqrt(2 * other.pvalue * (1 - other.pvalue) / 9999)
    assert p_value == pytest.approx(other.pvalue, abs=5 * error)
    assert name == "sign-flip permutation, 9,999 draws"


def test_an_overwhelming_difference_has_the_smallest_p_value() -> None:
    values = 1 + np.random.default_rng(0).random(40) / 100
    assert sign_flip_p_value(differences(values), 0)[0] == 1 / 10_000


@given(st.lists(st.integers(-6, 6), min_size=20, max_size=60), st.sampled_from([1, 2, 3, 10, 64]))
@settings(deadline=None, max_examples=40)
def test_many_clusters_on_a_lattice_equal_counting_with_integers(values, d) -> None:
    ways = {0: 1}
    for value in values:
        ways = dict(
            sum((Counter({s + sign * abs(value): n for s, n in ways.items()}) for sign in (-1, 1)),
                Counter())
        )  # fmt: skip
    extreme = sum(n for s, n in ways.items() if abs(s) >= abs(sum(values)))
    p_value, name = sign_flip_p_value(differences(np.array(values) / d), 0)
    assert p_value == pytest.approx(extreme / 2 ** len(values), rel=1e-9)
    assert name == "sign-flip permutation, exact"


def test_a_long_lattice_equals_the_binomial() -> None:
    """Convolved by Fourier transforms; single gains and losses are a sign test."""
    values = np.repeat([1.0, -1.0, 2.0, -2.0], [20_500, 20_000, 5000, 5000])
    # Sums are even: a step of 2 lies half below 500.
    expected = 2 * norm.sf(499 / np.sqrt((values**2).sum()))
    assert sign_flip_p_value(differences(values), 0)[0] == pytest.approx(expected, rel=2e-3)
    single = binomtest(20_500, 40_500).pvalue
    assert sign_flip_p_value(differences(values[:40_500]), 0)[0] == pytest.approx(single, rel=1e-9)


def test_clusters_that_cancel_show_nothing() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floats; the cluster must not count as changed."""
    assert not differences([0.1, 0.2, -0.3] * 2, [0, 0, 0, 1, 1, 1]).sums.any()
    assert sign_flip_p_value(differences([0.1, 0.2, -0.3], [0, 0, 0]), 0)[0] == 1.0


def test_joining_keeps_the_totals_and_mirrors() -> None:
    rng = np.random.default_rng(2)
    values = differences(rng.normal(size=5000), rng.integers(0, 900, 5000))
    mirror = differences(np.zeros(1), None)
    mirror = type(values)(np.sort(-values.sums), values.sizes[::-1], False)
    sums, sizes, direction = joined(values, 100, np.random.default_rng(0))
    other = joined(mirror, 100, np.random.default_rng(0))
    assert sums.size == 100
    assert (direction * sums.sum(), sizes.sum()) == pytest.approx((values.sums.sum(), 5000))
    assert direction == -other[2]
    assert (sums == other[0]).all()


@pytest.mark.parametrize("clusters", [[1, 2, 2], ["a", "b", "b"], [None, 1, 2], [0.0, np.nan, 1]])
def test_labels_are_numbered_or_refused(clusters) -> None:
    if clusters[0] in (1, "a"):
        assert cluster_codes(clusters, 3).tolist() == [0, 1, 1]
    else:
        with pytest.raises(ValueError, match=r"clusters lacks 1 label"):
            cluster_codes(clusters, 3)


def test_labels_of_the_wrong_number_are_refused_and_single_ones_dropped() -> None:
    with pytest.raises(ValueError, match=r"clusters has shape \(2,\)"):
        cluster_codes([1, 2], 3)
    assert cluster_codes([3, 1, 2], 3) is None
    assert cluster_codes(None, 3) is None


@pytest.mark.parametrize("bad", [[np.inf], ["0.5"], [None], [], [[0.5]]])
def test_scores_that_are_no_numbers_are_refused(bad) -> None:
    with pytest.raises(ValueError, match="score_a"):
        as_scores(bad, "score_a")


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 101, 5000])
def test_the_fair_binomial_is_scipys(n):
    expected = binom.pmf(np.arange(n + 1), n, 0.5)
    assert fair_binomial(n) == pytest.approx(expected, rel=1e-9, abs=1e-290)
