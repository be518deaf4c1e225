"""Differences by cluster, and their t test against statsmodels, scipy and matrices."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp

from dsmoe_eval.stats.clusters import (
    as_scores,
    cluster_codes,
    clustered_differences,
    fair_binomial,
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
    assert (found.delta, found.bounded) == (-0.0625, True)


def test_standard_error_of_single_items_is_the_textbooks() -> None:
    values = np.random.default_rng(3).normal(size=40)
    expected = values.std(ddof=1) / np.sqrt(40)
    assert seen(differences(values)) == pytest.approx(expected, rel=1e-9)
    assert np.isnan(differences([1.0, 2.0], [7, 7]).standard_error)


def test_the_standard_error_of_equal_clusters_is_the_regressions() -> None:
    """Of the intercept, robust to clusters; of equal clusters CR1 of statsmodels is CR2."""
    import statsmodels.api as sm

    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(12), 5)
    values = rng.normal(size=60) + rng.normal(size=12)[codes]
    fit = sm.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": codes})
    found = differences(values, codes)
    assert seen(found) == pytest.approx(fit.bse[0], rel=1e-9)
    assert found.degrees_of_freedom == pytest.approx(11, rel=1e-12)


def seen(found):
    """The standard error without what the sample hides."""
    residuals = found.sums - found.delta * found.sizes
    hidden = 2 * found._hidden(residuals) / (found.sums.size + 4)
    return np.sqrt(found.standard_error**2 - hidden**2)


@given(st.lists(st.integers(0, 6), min_size=6, max_size=30).filter(lambda x: len(set(x)) > 1))
@settings(deadline=None, max_examples=30)
def test_case_25_unequal_clusters_are_those_of_bell_and_mccaffrey(codes) -> None:
    """Variance and degrees of freedom by their matrices, cluster by cluster."""
    n, values = len(codes), np.random.default_rng(len(codes)).normal(size=len(codes))
    residual_maker = np.eye(n) - np.ones((n, n)) / n
    residuals, variance, columns = residual_maker @ values, 0.0, []
    for label in set(codes):
        rows = np.flatnonzero(np.array(codes) == label)
        weights, vectors = np.linalg.eigh(residual_maker[np.ix_(rows, rows)])
        root = vectors @ np.diag(weights**-0.5) @ vectors.T
        ones = np.ones(len(rows)) / n
        variance += float(ones @ root @ residuals[rows]) ** 2
        columns.append(residual_maker[rows].T @ root @ ones)
    inner = np.stack(columns) @ np.stack(columns).T
    found = differences(values, codes)
    assert seen(found) == pytest.approx(np.sqrt(variance), rel=1e-6)
    degrees = np.trace(inner) ** 2 / np.trace(inner @ inner)
    assert found.degrees_of_freedom == pytest.approx(degrees, rel=1e-9)


def test_case_25_interval_and_p_value_are_scipys_where_nothing_is_hidden() -> None:
    """Deviations that are as long on both sides hide no tail."""
    half = np.random.default_rng(1).normal(size=20)
    values = np.concatenate((half, -half)) + 0.2
    other = ttest_1samp(values, 0)
    found = differences(values)
    assert found.two_sided_p_value == pytest.approx(other.pvalue, rel=1e-9)
    interval = other.confidence_interval()
    assert (found.bound(0.025), found.bound(0.975)) == pytest.approx((interval.low, interval.high))
    assert found.p_value(0.1) == pytest.approx(
        ttest_1samp(values, 0.1, alternative="greater").pvalue
    )


def test_case_25_what_a_sample_may_hide_widens_it() -> None:
    half = np.full(100, 0.5)
    alike = clustered_differences(half, np.append(half[2:], [0.0, 1.0]), None)
    assert alike._hidden(alike.sums) == 0.98
    assert differences([1.0] * 10).standard_error == pytest.approx(2 / 14)
    tail = differences([-8.0, *np.linspace(0, 2, 30)])
    assert tail.standard_error > 1.5 * seen(tail)


def test_clusters_that_cancel_show_nothing() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floats; the cluster must not count as changed."""
    assert not differences([0.1, 0.2, -0.3] * 2, [0, 0, 0, 1, 1, 1]).sums.any()
    assert differences([0.1, 0.2, -0.3], [0, 0, 0]).two_sided_p_value == 1.0


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


def benchmark(name):
    """A script of `benchmarks/`."""
    path = Path(__file__).resolve().parents[2] / f"benchmarks/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("world", "count"),
    [("8 samples, firm items", 30), ("unbounded, long tail of losses", 100)],
)
def test_case_25_the_interval_covers_where_t_alone_does_not(world, count) -> None:
    script = benchmark("calibration_intervals")
    draw, effects = script.WORLDS[world]
    drawn = draw(np.random.default_rng(0), (600, count), effects[-1])

    def covered(low, high):
        return np.mean((low <= effects[-1]) & (effects[-1] <= high))

    assert covered(*script.package(*drawn)) >= 0.935
    assert covered(*script.robust_t(*drawn[:2], bell_mccaffrey=True)) < 0.935


def test_case_25_the_calibration_of_decisions_runs() -> None:
    script = benchmark("calibration")
    for world, _ in script.WORLDS.values():
        assert script.simulate(world, 30, 3).holds.size == 3
