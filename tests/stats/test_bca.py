"""The bootstrap against scipy's, its inverse, its mirror image."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import bootstrap, norm
from scipy.stats import t as student

from dsmoe_eval.stats.bca import bca_bootstrap, bounds, lower_tail
from dsmoe_eval.stats.clusters import ClusteredDifferences, cluster_codes, clustered_differences


def clustered(seed: int, n: int, clusters: int, skewed: bool = True) -> ClusteredDifferences:
    rng = np.random.default_rng(seed)
    b = rng.lognormal(0, 1, n) - 1.5 if skewed else rng.normal(size=n)
    return clustered_differences(np.zeros(n), b, cluster_codes(rng.integers(0, clusters, n), n))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bounds_equal_scipys_from_the_same_resamples(seed) -> None:
    found = clustered(seed, 80, 25)
    ours = bca_bootstrap(found, seed)
    size = found.sizes.mean()
    sums = np.append(found.sums, [found.largest * size, -found.largest * size])
    sizes = np.append(found.sizes, [size, size])
    reach = student.ppf(0.975, sums.size - 1) * np.sqrt(sums.size / (sums.size - 1))
    theirs = bootstrap(
        (sums, sizes), lambda d, n, axis: d.sum(axis) / n.sum(axis), paired=True,
        vectorized=True, method="BCa", n_resamples=0, confidence_level=1 - 2 * norm.sf(reach),
        bootstrap_result=SimpleNamespace(bootstrap_distribution=ours.resampled),
    ).confidence_interval  # fmt: skip
    assert (ours.bound(0.025), ours.bound(0.975)) == pytest.approx(tuple(theirs), rel=1e-9)


def test_resamples_spread_as_the_standard_error() -> None:
    """Of the clusters with the two that are added."""
    found = clustered(7, 3000, 600, skewed=False)
    spread = bca_bootstrap(found, 0).resampled.std()
    size = found.sizes.mean()
    padded = ClusteredDifferences(
        np.append(found.sums, [found.largest * size, -found.largest * size]),
        np.append(found.sizes, [size, size]),
        False,
    )
    assert spread == pytest.approx(padded.standard_error, rel=0.03)


def test_joined_clusters_spread_as_all_of_them() -> None:
    found = clustered(8, 30_000, 30_000, skewed=False)
    assert bca_bootstrap(found, 0).resampled.std() == pytest.approx(found.standard_error, rel=0.05)


def test_clusters_of_few_kinds_resample_as_one_by_one() -> None:
    """Binary items, some in pairs: counts are drawn, or, told apart by a hair, the clusters."""
    rng = np.random.default_rng(3)
    codes = np.r_[np.arange(400), rng.integers(0, 400, 60)]
    b = rng.choice([-1.0, 0.0, 1.0], 460, p=[0.1, 0.7, 0.2])
    few = clustered_differences(np.zeros(460), b, codes)
    many = clustered_differences(np.zeros(460), b + 1e-7 * rng.random(460), codes)
    one, other = bca_bootstrap(few, 0), bca_bootstrap(many, 0)
    assert one.clusters == other.clusters == 402
    assert one.skew == pytest.approx(other.skew, rel=1e-3)
    assert one.resampled.std() == pytest.approx(other.resampled.std(), rel=0.03)
    for tail in (0.025, 0.5, 0.975):
        assert one.bound(tail) == pytest.approx(other.bound(tail), abs=0.05 * other.resampled.std())


def test_tail_inverts_bound() -> None:
    found = bca_bootstrap(clustered(5, 200, 60), 0)
    for tail in (0.005, 0.025, 0.2, 0.5, 0.9, 0.975):
        assert found.tail(found.bound(tail)) == pytest.approx(tail, rel=1e-6)
    assert 0 < found.tail(-100) < found.tail(100) < 1


@pytest.mark.parametrize("skewed", [True, False])
def test_the_other_way_round_is_the_mirror_image(skewed) -> None:
    found = clustered(9, 90, 30, skewed)
    order = np.lexsort((found.sizes, -found.sums))
    mirror = ClusteredDifferences(-found.sums[order], found.sizes[order], found.bounded)
    one, other = bca_bootstrap(found, 0), bca_bootstrap(mirror, 0)
    assert (one.resampled == -other.resampled[::-1]).all()
    assert one.bound(0.025) == pytest.approx(-other.bound(0.975), abs=1e-12)


def test_data_that_are_their_own_mirror_image_have_a_symmetric_interval() -> None:
    values = np.array([-0.5, -0.25, 0.25, 0.5, 0.0, 0.0])
    found = bca_bootstrap(clustered_differences(np.zeros(6), values, None), 0)
    assert found.bound(0.025) == pytest.approx(-found.bound(0.975), abs=1e-12)


def test_nothing_to_resample() -> None:
    one = clustered_differences(np.zeros(2), np.ones(2), cluster_codes([1, 1], 2))
    same = clustered_differences(np.ones(9), np.ones(9), None)
    assert bca_bootstrap(one, 0) is None
    assert bca_bootstrap(same, 0) is None


# --- bounds -----------------------------------------------------------------------------------


def half_changed(bounded: bool = True) -> ClusteredDifferences:
    """30 single items: 20 unchanged, ten that gain a little."""
    b = np.where(np.arange(30) < 20, 0.5, 0.5 + np.arange(30) / 1000)
    a = np.full(30, 0.5)
    return (
        clustered_differences(a, b, None) if bounded else clustered_differences(a + 5, b + 5, None)
    )


def test_unchanged_items_may_hide_a_loss_that_the_bootstrap_cannot_know() -> None:
    found = half_changed()
    z2 = norm.isf(0.025) ** 2
    lower, upper = bounds(found, bca_bootstrap(found, 0), 0.025)
    reach = 20 / 30 * z2 / (20 + z2)
    assert (lower, upper) == pytest.approx((found.delta - reach, found.delta + reach), abs=1e-12)


def test_unbounded_scores_may_change_by_twice_the_largest_that_was_seen() -> None:
    found = half_changed(bounded=False)
    bootstrap = bca_bootstrap(found, 0)
    z2 = norm.ppf(0.95) ** 2
    reach = 2 * found.largest * z2 / (found.sizes.sum() ** 2 / (found.sizes**2).sum() + z2)
    expected = (
        min(bootstrap.bound(0.05), found.delta - reach),
        max(bootstrap.bound(0.95), found.delta + reach),
    )
    assert bounds(found, bootstrap, 0.05) == pytest.approx(expected, abs=1e-12)
    assert expected != (bootstrap.bound(0.05), bootstrap.bound(0.95))


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("alpha", [0.01, 0.025, 0.2])
def test_the_tail_of_the_lower_bound_is_alpha(bounded, alpha) -> None:
    found = half_changed(bounded)
    bootstrap = bca_bootstrap(found, 0)
    lower = bounds(found, bootstrap, alpha)[0]
    # Equal resamples make steps.
    assert lower_tail(found, bootstrap, lower) == pytest.approx(alpha, rel=0.01)


def test_the_tail_shrinks_with_the_threshold() -> None:
    found = half_changed()
    bootstrap = bca_bootstrap(found, 0)
    tails = [lower_tail(found, bootstrap, x) for x in np.linspace(-0.9, 0.5, 60)]
    assert tails == sorted(tails)
    assert 0 < tails[0] < 1e-3 < 0.5 <= tails[-1] <= 1
