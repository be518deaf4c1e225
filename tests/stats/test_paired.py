"""Pairs, the mid-p McNemar test and Tango's interval, each against an independent oracle."""

import dataclasses
import math
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binom, multinomial, norm, t
from statsmodels.stats.contingency_tables import mcnemar

from dsmoe_eval.stats import (
    PairedCounts,
    compare_paired,
    count_pairs,
    mcnemar_midp,
    smallest_effect,
    tango_interval,
    tango_z,
)

Z95 = norm.isf(0.025)


@st.composite
def counts(draw: st.DrawFn) -> PairedCounts:
    """Any possible counts of up to 500 items."""
    n = draw(st.integers(1, 500))
    right_a = draw(st.integers(0, n))
    gained = draw(st.integers(0, n - right_a))
    return PairedCounts(n, right_a, gained, draw(st.integers(0, right_a)))


def tables(n: int) -> list[PairedCounts]:
    """All pairs of gained and lost that n items allow."""
    return [PairedCounts(n, lost, g, lost) for g in range(n + 1) for lost in range(n + 1 - g)]


def probabilities(of: list[PairedCounts], p_gain: float, p_loss: float) -> NDArray[np.float64]:
    """Trinomial probability of each table."""
    cells = [(c.gained, c.lost, c.n - c.gained - c.lost) for c in of]
    return multinomial.pmf(cells, of[0].n, (p_gain, p_loss, 1 - p_gain - p_loss))


def swapped(c: PairedCounts) -> PairedCounts:
    return PairedCounts(c.n, c.right_a + c.gained - c.lost, c.lost, c.gained)


# --- counting ---------------------------------------------------------------------------------


def test_counts_of_a_small_example() -> None:
    found = count_pairs([1, 1, 0, 0, 0], [1, 0, 1, 1, 0])
    assert found == PairedCounts(n=5, right_a=2, gained=2, lost=1)
    assert (found.score_a, found.score_b) == (0.4, 0.6)
    assert (found.delta, found.discordance) == (0.2, 0.6)


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(pairs, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_counting_ignores_order_and_type_and_knows_its_direction(items, random) -> None:
    a, b = map(list, zip(*items, strict=True))
    found = count_pairs(a, b)
    tally = Counter(items)
    assert (found.gained, found.lost) == (tally[False, True], tally[True, False])
    assert found.right_a == sum(a)
    assert count_pairs(np.array(a, float), np.array(b, np.int8)) == found
    assert count_pairs(b, a) == swapped(found)
    random.shuffle(items)
    assert count_pairs(*zip(*items, strict=True)) == found


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 0], [1, 0, 1], "score_a has 2 items and score_b 3"),
        ([], [], "score_a is empty"),
        ([1, 0], [1, np.nan], "score_b holds nan"),
        ([1, 0.5], [1, 0], "score_a holds 0.5"),
        ([1, -1], [1, 0], "score_a holds -1"),
        (["1", "0"], [1, 0], "score_a holds 1"),
        ([1, None], [1, 0], "score_a holds 1"),
        ([[1, 0]], [[1, 0]], r"score_a has shape \(1, 2\)"),
        (1, 1, r"score_a has shape \(\)"),
    ],
)
def test_scores_that_cannot_be_paired_are_refused(a, b, message) -> None:
    with pytest.raises(ValueError, match=message):
        count_pairs(a, b)


@pytest.mark.parametrize(
    ("n", "right_a", "gained", "lost"),
    [(0, 0, 0, 0), (5, 6, 0, 0), (5, 2, 4, 0), (5, 2, 0, 3), (5, 2, -1, 0), (5, 2, 0, -1)],
)
def test_impossible_counts_are_refused(n, right_a, gained, lost) -> None:
    with pytest.raises(ValueError, match="is"):
        PairedCounts(n, right_a, gained, lost)


# --- mid-p McNemar ----------------------------------------------------------------------------


def test_midp_equals_brute_force_over_all_splits() -> None:
    """Exact fractions over all 2^m equally likely outcomes of m changed items."""
    for m in range(1, 13):
        gains = Counter(map(sum, product((0, 1), repeat=m)))
        for gained in range(m + 1):
            here = abs(2 * gained - m)
            more = sum(ways for x, ways in gains.items() if abs(2 * x - m) > here)
            same = sum(ways for x, ways in gains.items() if abs(2 * x - m) == here)
            exact = Fraction(more, 2**m) + Fraction(same, 2 ** (m + 1))
            assert mcnemar_midp(gained, m - gained) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 1), (7, 1), (20, 40), (30, 30), (3, 300), (520, 480), (900, 1000)]
)
def test_midp_is_the_exact_p_value_less_the_point_probability(gained, lost) -> None:
    exact = mcnemar([[0, lost], [gained, 0]], exact=True).pvalue
    point = math.comb(gained + lost, gained) / 2 ** (gained + lost)
    # A tie is its own mirror image: its point probability counts once, not twice.
    expected = exact - (point / 2 if gained == lost else point)
    assert mcnemar_midp(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_midp_of_an_overwhelming_split_is_not_negative() -> None:
    """So small that doubles round it coarsely; Holm's method would refuse a negative value."""
    assert 0 <= mcnemar_midp(1, 1074) < 1e-300


def test_midp_without_changes_is_one() -> None:
    assert mcnemar_midp(0, 0) == 1.0


@given(st.integers(0, 3000), st.integers(0, 3000))
@settings(deadline=None, max_examples=60)
def test_midp_is_symmetric_and_a_probability(gained, lost) -> None:
    assert 0 <= mcnemar_midp(gained, lost) == mcnemar_midp(lost, gained) <= 1


@pytest.mark.parametrize(("gained", "lost"), [(-1, 2), (2, -1)])
def test_midp_refuses_negative_counts(gained, lost) -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        mcnemar_midp(gained, lost)


@pytest.mark.parametrize(("discordance", "published"), [(0.10, 0.009), (0.30, 0.039)])
def test_midp_type_one_error_of_30_items(discordance, published) -> None:
    """Exact; research/peers.md, table 4.2, simulated it with 20,000 replicates."""
    all_tables = tables(30)
    rejected = [mcnemar_midp(c.gained, c.lost) < 0.05 for c in all_tables]
    error = probabilities(all_tables, discordance / 2, discordance / 2)[rejected].sum()
    assert error <= 0.05
    assert error == pytest.approx(published, abs=3 * math.sqrt(published / 20_000))


@pytest.mark.parametrize("discordance", [0.05, 0.2])
def test_midp_type_one_error_of_300_items(discordance) -> None:
    rng = np.random.default_rng(7)
    p = [discordance / 2, discordance / 2, 1 - discordance]
    draws = Counter((int(g), int(lost)) for g, lost, _ in rng.multinomial(300, p, 4000))
    error = sum(k for (g, lost), k in draws.items() if mcnemar_midp(g, lost) < 0.05) / 4000
    assert 0.03 < error < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


# --- Tango's statistic ------------------------------------------------------------------------


def numerical_z(c: PairedCounts, null_delta: float) -> float:
    """The statistic with P(lost) from a numerical search for the trinomial maximum."""

    def minus_log_likelihood(p_lost: float) -> float:
        cells = (p_lost + null_delta, p_lost, 1 - 2 * p_lost - null_delta)
        seen = (c.gained, c.lost, c.n - c.gained - c.lost)
        return -sum(k * math.log(p) for k, p in zip(seen, cells, strict=True) if k)

    bounds = (max(0.0, -null_delta) + 1e-13, (1 - null_delta) / 2 - 1e-13)
    p_lost = minimize_scalar(
        minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x
    variance = (2 * p_lost + null_delta - null_delta**2) / c.n
    return (c.delta - null_delta) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (3, 0), (0, 3), (4, 2), (2, 4), (10, 9), (20, 0), (1, 19)]
)
@pytest.mark.parametrize("null_delta", [-0.9, -0.3, -0.02, 0.0, 0.05, 0.4, 0.95])
def test_z_uses_the_constrained_likelihood_maximum(gained, lost, null_delta) -> None:
    c = PairedCounts(20, lost, gained, lost)
    if gained == lost == null_delta == 0:
        assert tango_z(c, 0.0) == 0.0
    else:
        assert tango_z(c, null_delta) == pytest.approx(numerical_z(c, null_delta), abs=1e-5)


def test_z_at_zero_is_mcnemars_statistic() -> None:
    c = PairedCounts(100, 50, 17, 8)
    expected = mcnemar([[0, 8], [17, 0]], exact=False, correction=False).statistic
    assert tango_z(c, 0.0) ** 2 == pytest.approx(expected, rel=1e-12)


def test_z_falls_as_the_null_difference_rises() -> None:
    """Else the interval and the test could disagree."""
    for c in tables(7):
        z = [tango_z(c, d) for d in np.linspace(-0.999, 0.999, 200)]
        assert all(np.diff(z) < 0)


def test_z_at_the_ends() -> None:
    mixed, all_gained = PairedCounts(4, 2, 1, 1), PairedCounts(4, 0, 4, 0)
    assert (tango_z(mixed, -1), tango_z(mixed, 1)) == (math.inf, -math.inf)
    assert tango_z(all_gained, 1) == 0.0


@pytest.mark.parametrize("null_delta", [5e-324, 1e-300, 1e-200, 1e-20])
def test_z_is_continuous_at_zero_without_changes(null_delta) -> None:
    """There z = -sqrt(n d / (1 - d)), and squares of d underflow."""
    z = tango_z(PairedCounts(4, 2, 0, 0), null_delta)
    assert z == pytest.approx(-math.sqrt(4 * null_delta), rel=1e-9)


@given(counts(), st.floats(-1, 1))
@settings(deadline=None, max_examples=100)
def test_z_changes_sign_when_a_and_b_swap(c, null_delta) -> None:
    assert tango_z(c, null_delta) == -tango_z(swapped(c), -null_delta)


@pytest.mark.parametrize("null_delta", [1.01, -2, math.nan])
def test_z_refuses_impossible_differences(null_delta) -> None:
    with pytest.raises(ValueError, match="null_delta is"):
        tango_z(PairedCounts(4, 2, 1, 1), null_delta)


# --- Tango's interval -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("both", "only_first", "only_second", "neither", "level", "expected"),
    [
        (4, 9, 3, 16, 0.95, (-0.027, 0.390)),  # Tango (1998)
        (43, 0, 1, 0, 0.90, (-0.096, 0.037)),  # Tango (1998)
        (53, 16, 8, 9, 0.95, (-0.020, 0.207)),  # Agresti and Min (2005)
        (1, 1, 7, 12, 0.95, (-0.517, -0.026)),  # Fagerland, Lydersen and Laake (2014)
    ],
)
def test_published_intervals(both, only_first, only_second, neither, level, expected) -> None:
    """Papers take first minus second; the figures are also in the tests of R's ratesci."""
    n = both + only_first + only_second + neither
    c = PairedCounts(n, both + only_second, gained=only_first, lost=only_second)
    assert tango_interval(c, level) == pytest.approx(expected, abs=0.0005001)


def grid_interval(c: PairedCounts) -> tuple[float, float]:
    """All differences whose |z| is at most 1.96, P(lost) searched on a grid as well."""
    kept = []
    for null_delta in np.arange(-0.9995, 1, 0.001):
        low, high = max(0.0, -null_delta), (1 - null_delta) / 2
        p_lost = np.linspace(low + 1e-9, high - 1e-9, 4001)
        likelihood = (
            c.gained * np.log(p_lost + null_delta)
            + c.lost * np.log(p_lost)
            + (c.n - c.gained - c.lost) * np.log(1 - 2 * p_lost - null_delta)
        )
        best = p_lost[np.argmax(likelihood)]
        variance = (2 * best + null_delta - null_delta**2) / c.n
        if (c.delta - null_delta) ** 2 <= Z95**2 * variance:
            kept.append(null_delta)
    return min(kept), max(kept)


@pytest.mark.parametrize(("n", "gained", "lost"), [(25, 5, 2), (40, 0, 6), (12, 7, 5), (60, 3, 0)])
def test_interval_equals_grid_inversion(n, gained, lost) -> None:
    c = PairedCounts(n, lost, gained, lost)
    assert tango_interval(c) == pytest.approx(grid_interval(c), abs=0.002)


@pytest.mark.parametrize("n", [1, 2, 5, 300])
def test_interval_at_the_edges_has_closed_forms(n) -> None:
    same, gains = PairedCounts(n, 0, 0, 0), PairedCounts(n, 0, n, 0)
    half_width = Z95**2 / (n + Z95**2)
    assert tango_interval(same) == pytest.approx((-half_width, half_width), abs=1e-9)
    assert tango_interval(gains) == pytest.approx(((n - Z95**2) / (n + Z95**2), 1.0), abs=1e-9)


@given(counts(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
@settings(deadline=None, max_examples=150)
def test_interval_contains_the_difference_and_swaps_with_the_systems(c, level) -> None:
    lower, upper = tango_interval(c, level)
    assert -1 <= lower <= c.delta <= upper <= 1
    assert lower < upper
    assert tango_interval(swapped(c), level) == (-upper, -lower)
    wider = tango_interval(c, 0.9999)
    assert wider[0] <= lower
    assert upper <= wider[1]


@given(counts())
@settings(deadline=None, max_examples=100)
def test_limits_are_where_the_test_just_rejects(c) -> None:
    lower, upper = tango_interval(c)
    if lower > -1:
        assert tango_z(c, lower) == pytest.approx(Z95, abs=1e-6)
    if upper < 1:
        assert tango_z(c, upper) == pytest.approx(-Z95, abs=1e-6)


@pytest.mark.parametrize("level", [95, 1.0, 0.4, -0.1, math.nan])
def test_interval_refuses_a_level_that_is_no_fraction(level) -> None:
    with pytest.raises(ValueError, match="level is"):
        tango_interval(PairedCounts(4, 2, 1, 1), level)


def test_coverage_for_30_items_by_exact_enumeration() -> None:
    all_tables = tables(30)
    limits = np.array([tango_interval(c) for c in all_tables])
    grid = [(g, lost) for g in np.arange(0, 0.51, 0.05) for lost in np.arange(0, 0.51, 0.05)]
    covered = []
    for p_gain, p_loss in grid[1:]:
        delta = p_gain - p_loss
        inside = (limits[:, 0] <= delta + 1e-12) & (delta - 1e-12 <= limits[:, 1])
        covered.append(probabilities(all_tables, p_gain, p_loss)[inside].sum())
    assert min(covered) == pytest.approx(0.930, abs=0.001)
    assert np.mean(covered) == pytest.approx(0.950, abs=0.005)


@pytest.mark.parametrize(("p_gain", "p_loss"), [(0.05, 0.05), (0.08, 0.03), (0.02, 0.15)])
def test_coverage_for_300_items_by_simulation(p_gain, p_loss) -> None:
    draws = np.random.default_rng(11).multinomial(300, [p_gain, p_loss, 1 - p_gain - p_loss], 2000)
    seen = Counter((int(g), int(lost)) for g, lost, _ in draws)
    covered = 0
    for (gained, lost), times in seen.items():
        lower, upper = tango_interval(PairedCounts(300, lost, gained, lost))
        covered += times * (lower <= p_gain - p_loss <= upper)
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


# --- all together -----------------------------------------------------------------------------


def test_compare_paired_reports_every_part() -> None:
    a = [1] * 60 + [0] * 40
    b = [1] * 55 + [0] * 5 + [1] * 18 + [0] * 22
    result = compare_paired(a, b)
    c = count_pairs(a, b)
    assert (result.n, result.gained, result.lost) == (100, 18, 5)
    assert (result.score_a, result.score_b) == (0.60, 0.73)
    assert result.delta == pytest.approx(0.13)
    assert result.ci95 == tango_interval(c, 0.95)
    assert result.p_value == mcnemar_midp(18, 5)
    assert result.test == "mid-p McNemar"
    assert result.mde80 == smallest_effect(100, 0.23)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.n = 1


def test_comparing_a_system_with_itself_shows_nothing() -> None:
    result = compare_paired([1, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0])
    assert (result.delta, result.p_value) == (0.0, 1.0)
    assert result.ci95[0] == -result.ci95[1] < 0


# --- fractions, unbounded scores, clusters ----------------------------------------------------


def test_clusters_of_one_are_no_clusters() -> None:
    a, b = [1, 0, 0, 1, 0, 1], [1, 1, 0, 0, 1, 1]
    assert compare_paired(a, b, clusters=list("fedcba")) == compare_paired(a, b)


def test_clustered_items_are_tested_by_cluster() -> None:
    """Ten clusters, each all gained, are ten observations and not forty."""
    result = compare_paired([0] * 40, [1] * 40, clusters=np.arange(40) // 4)
    assert 1e-6 < result.p_value < 1e-3
    assert result.test == "cluster-robust t"
    assert (result.n, result.clusters, result.gained, result.lost) == (40, 10, 40, 0)
    assert 0 < result.ci95[0] < result.ci95[1] == 1.0


def test_fractions_report_every_part() -> None:
    a, b = np.array([0.5, 0.25, 0.0, 1.0] * 5), np.array([0.75, 0.25, 0.5, 0.5] * 5)
    result = compare_paired(a, b)
    # A quarter of the items change alike, whichever change it is.
    spread = math.hypot(np.std(b - a, ddof=1) / math.sqrt(20), 2 * 0.25 / 24)
    assert (result.n, result.gained, result.lost, result.clusters) == (20, 10, 5, 20)
    assert (result.score_a, result.score_b, result.delta) == (0.4375, 0.5, 0.0625)
    assert result.test == "paired t"
    reach = t.isf(0.025, 19) * spread
    assert result.ci95 == pytest.approx((0.0625 - reach, 0.0625 + reach))
    assert result.p_value == pytest.approx(2 * t.sf(0.0625 / spread, 19))
    assert result.mde80 == pytest.approx(reach + t.isf(0.2, 19) * spread)


finite = st.integers(-64, 64).map(lambda x: x / 32)
trios = st.lists(st.tuples(finite, finite, st.integers(0, 9)), min_size=2, max_size=40)


@given(trios, st.randoms(use_true_random=False), st.integers(-8, 8))
@settings(deadline=None, max_examples=20)
def test_swap_order_and_shift(items, random, constant) -> None:
    a, b, codes = map(np.array, zip(*items, strict=True))
    result = compare_paired(a, b, codes)
    back = compare_paired(b, a, codes)
    assert (back.delta, back.p_value, back.mde80) == pytest.approx(
        (-result.delta, result.p_value, result.mde80), abs=1e-12, nan_ok=True
    )
    lower, upper = result.ci95
    assert back.ci95 == pytest.approx((-upper, -lower), abs=1e-12, nan_ok=True)
    random.shuffle(items)
    shuffled = compare_paired(*map(np.array, zip(*items, strict=True)))
    assert (shuffled.delta, shuffled.p_value, *shuffled.ci95) == pytest.approx(
        (result.delta, result.p_value, *result.ci95), abs=1e-12, nan_ok=True
    )
    moved = compare_paired(a + constant, b + constant, codes)
    assert (moved.delta, moved.gained, moved.lost) == (result.delta, result.gained, result.lost)
    if not np.isnan(lower):
        assert lower <= result.delta <= upper
        if abs(result.p_value - 0.05) > 1e-9:
            assert (lower <= 0 <= upper) == (result.p_value > 0.05)


def test_nothing_changed_is_no_certainty() -> None:
    """About as wide as for binary items; for unbounded scores nobody can say."""
    fractions = compare_paired([0.25] * 30, [0.25] * 30)
    assert fractions.p_value == 1.0
    assert fractions.ci95 == pytest.approx((-0.1203, 0.1203), abs=1e-4)
    binary = compare_paired([1] * 30, [1] * 30)
    assert 0.9 * fractions.ci95[1] < binary.ci95[1] < fractions.ci95[1] < fractions.mde80
    for change in (0.0, 0.5):
        unbounded = compare_paired([2.5] * 30, [2.5 + change] * 30)
        assert unbounded.p_value == 1.0
        assert np.isnan([*unbounded.ci95, unbounded.mde80]).all()


def test_one_cluster_shows_nothing() -> None:
    result = compare_paired([0, 0, 0], [1, 1, 1], clusters=["x"] * 3)
    assert (result.delta, result.p_value, result.clusters) == (1.0, 1.0, 1)
    assert np.isnan([*result.ci95, result.mde80]).all()


@pytest.mark.parametrize("kind", ["samples", "clusters"])
def test_type_one_error_of_30_items_with_five_percent_changed(kind) -> None:
    rng = np.random.default_rng(8)
    rejected = 0
    for _ in range(300):
        if kind == "samples":
            p = np.where(rng.random(30) < 0.2, 0.5, 1.0)
            a, b = rng.binomial(4, p) / 4, rng.binomial(4, p) / 4
            rejected += compare_paired(a, b).p_value <= 0.05
        else:
            codes, a = np.repeat(np.arange(30), 4), rng.integers(0, 2, 120)
            flipped = np.repeat(rng.random(30) < 0.05, 4) & (a == np.repeat(a[::4], 4))
            b = np.where(flipped, 1 - a, a)
            rejected += compare_paired(a, b, codes).p_value <= 0.05
    assert rejected / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (7, 7), (3, 12), (400, 380), (0, 900)])
def test_the_test_is_scipys_binomial(gained, lost):
    changed, fewer = gained + lost, min(gained, lost)
    tails = binom.cdf(fewer, changed, 0.5) + binom.cdf(fewer - 1, changed, 0.5)
    expected = 1 - binom.pmf(fewer, changed, 0.5) / 2 if gained == lost else tails
    assert mcnemar_midp(gained, lost) == pytest.approx(expected, rel=1e-12)


def test_a_smallest_effect_above_the_scale_is_none() -> None:
    """Four clusters of five items, all or nothing: no effect of fractions is large enough."""
    codes = np.repeat(np.arange(4), 5)
    base, other = np.zeros(20), np.repeat([1.0, 0.0, 1.0, 0.0], 5)
    assert np.isnan(compare_paired(base, other, codes).mde80)
    assert compare_paired(base, 100 * other, codes).mde80 > 100
