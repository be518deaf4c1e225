"""Power and smallest effect: against enumeration, simulation, closed forms and a table."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multinomial, norm, ttest_1samp

from dsmoe_eval.stats import (
    SampleVariance,
    items_needed,
    items_needed_of_samples,
    mcnemar_midp,
    midp_power,
    sample_variance,
    smallest_effect,
)


@pytest.mark.parametrize(
    ("n", "delta", "discordance", "alpha"),
    [
        (1, 0.5, 0.5, 0.05),
        (12, 0.3, 0.6, 0.05),
        (12, 0.6, 0.6, 0.05),
        (25, 0.0, 0.4, 0.05),
        (25, 0.2, 1.0, 0.01),
        (40, 0.1, 0.3, 0.25),
    ],
)
def test_power_equals_enumeration_of_all_outcomes(n, delta, discordance, alpha) -> None:
    p_gain, p_loss = (discordance + delta) / 2, (discordance - delta) / 2
    cells = [(g, lost, n - g - lost) for g in range(n + 1) for lost in range(n + 1 - g)]
    p = multinomial.pmf(cells, n, (p_gain, p_loss, 1 - discordance))
    rejected = [mcnemar_midp(g, lost) < alpha for g, lost, _ in cells]
    assert midp_power(n, delta, discordance, alpha) == pytest.approx(p[rejected].sum(), abs=1e-8)


@pytest.mark.parametrize(
    ("n", "delta", "discordance"), [(198, 0.06, 0.1), (500, 0.03, 0.2), (2000, 0.02, 0.1)]
)
def test_power_equals_simulation(n, delta, discordance) -> None:
    p = [(discordance + delta) / 2, (discordance - delta) / 2, 1 - discordance]
    draws = np.random.default_rng(3).multinomial(n, p, 10_000)
    seen = Counter((int(g), int(lost)) for g, lost, _ in draws)
    hits = sum(times for (g, lost), times in seen.items() if mcnemar_midp(g, lost) < 0.05)
    assert midp_power(n, delta, discordance) == pytest.approx(hits / 10_000, abs=0.015)


def test_power_for_the_largest_suite_is_near_the_normal_approximation() -> None:
    """12,032 items: n large enough that the truncated tails and the cached table matter."""
    discordance, delta = 0.2, 0.0115
    spread = math.sqrt((discordance - delta**2) / 12_032)
    expected = 0.5 * math.erfc((1.96 * math.sqrt(discordance / 12_032) - delta) / spread / 2**0.5)
    assert midp_power(12_032, delta, discordance) == pytest.approx(expected, abs=0.005)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_power_grows_with_the_effect_and_ignores_its_sign(n, discordance, x, y) -> None:
    small, large = sorted((x * discordance, y * discordance))
    power = midp_power(n, large, discordance)
    assert 0 <= midp_power(n, small, discordance) <= power + 1e-12
    assert power <= 1 + 1e-12
    assert midp_power(n, -large, discordance) == power


@pytest.mark.parametrize("discordance", [0.0, 5e-324, 2.3e-308, 1e-12])
def test_without_changes_there_is_no_power(discordance) -> None:
    assert midp_power(14, 0.0, discordance) == 0.0


TABLE = {
    198: (4.1, 6.0, 8.7),
    381: (3.1, 4.5, 6.3),
    410: (3.0, 4.3, 6.1),
    500: (2.8, 3.9, 5.6),
    1101: (1.9, 2.6, 3.8),
    1273: (1.7, 2.5, 3.5),
    1351: (1.7, 2.4, 3.4),
    12_032: (0.6, 0.8, 1.1),
}


@pytest.mark.parametrize("n", TABLE)
def test_smallest_effects_of_the_research_table(n) -> None:
    """research/peers.md, table 4.3, in points with one decimal; all have delta <= discordance."""
    found = [100 * smallest_effect(n, d) for d in (0.05, 0.10, 0.20)]
    assert found == pytest.approx(TABLE[n], abs=0.08)


@pytest.mark.parametrize("discordance", [0.05, 0.10, 0.20])
def test_thirty_items_cannot_show_an_effect_within_their_discordance(discordance) -> None:
    """Table 4.3 says "not reachable" for AIME; here discordance grows with the effect."""
    assert midp_power(30, discordance, discordance) < 0.8
    assert smallest_effect(30, discordance) > discordance


@pytest.mark.parametrize(
    ("n", "discordance", "power", "alpha"),
    [(60, 0.3, 0.8, 0.05), (300, 0.1, 0.9, 0.05), (1000, 0.02, 0.5, 0.01), (30, 0.05, 0.8, 0.05)],
)
def test_smallest_effect_has_just_the_wanted_power(n, discordance, power, alpha) -> None:
    delta = smallest_effect(n, discordance, power, alpha)
    assert midp_power(n, delta, max(discordance, delta), alpha) == pytest.approx(power, abs=1e-4)
    less = delta - 0.002
    assert midp_power(n, less, max(discordance, less), alpha) < power


@pytest.mark.parametrize("n", [5, 40])
def test_all_changes_being_gains_has_a_closed_form(n) -> None:
    """With discordance 0 every change is a gain; five and more are significant, four are not."""
    delta = smallest_effect(n, 0.0)
    assert binom.sf(4, n, delta) == pytest.approx(0.8, abs=1e-4)


def test_too_few_items_can_show_nothing() -> None:
    assert math.isnan(smallest_effect(4, 0.5))


def test_power_hardly_above_alpha_needs_no_effect() -> None:
    """16 items that all change: the mid-p test's own error is 0.077, as documented."""
    assert midp_power(16, 0.0, 1.0) == pytest.approx(0.077, abs=0.0005)
    assert smallest_effect(16, 1.0, power=0.07) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.1, 0.2), "n is 0"),
        ((10, 0.3, 0.2), "delta is 0.3"),
        ((10, math.nan, 0.2), "delta is nan"),
        ((10, 0.1, 20), "discordance is 20"),
        ((10, 0.1, math.nan), "discordance is nan"),
        ((10, 0.1, 0.2, 5), "alpha is 5"),
    ],
)
def test_power_refuses_bad_input(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        midp_power(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.1), "n is 0"),
        ((10, -0.1), "discordance is -0.1"),
        ((10, 0.1, 80), "power is 80"),
        ((10, 0.1, 0.01), "power is 0.01"),
        ((10, 0.1, 0.8, 0), "alpha is 0"),
    ],
)
def test_smallest_effect_refuses_bad_input(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        smallest_effect(*arguments)


# --- planning ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "discordance", "alpha", "power"),
    [(0.1, 0.2, 0.05, 0.8), (-0.05, 0.1, 0.05, 0.8), (0.3, 0.5, 0.01, 0.9)],
)
def test_items_needed_is_where_power_passes(effect, discordance, alpha, power) -> None:
    n = items_needed(effect, discordance, alpha=alpha, power=power)
    assert midp_power(n, effect, discordance, alpha) >= power
    assert midp_power(n - 1, effect, discordance, alpha) < power
    assert smallest_effect(n, discordance, power, alpha) == pytest.approx(abs(effect), rel=0.02)


def test_items_needed_of_a_brute_force_search() -> None:
    powers = [midp_power(n, 0.25, 0.4) for n in range(1, 80)]
    assert items_needed(0.25, 0.4) == 1 + next(i for i, p in enumerate(powers) if p >= 0.8)


@pytest.mark.parametrize(("effect", "discordance"), [(0, 0.1), (0.2, 0.1), (0.1, 1.2)])
def test_items_needed_refuses_what_cannot_be(effect, discordance) -> None:
    with pytest.raises(ValueError, match=r"effect is|discordance is"):
        items_needed(effect, discordance)


def test_variance_of_samples_is_split() -> None:
    """Unbiased: 4,000 items, true variance 0.02 between items and 0.25 + 0.09 within."""
    rng = np.random.default_rng(0)
    item = rng.normal(0, np.sqrt(0.02), (4000, 1))
    a, b = rng.normal(0, 0.5, (4000, 4)), item + rng.normal(0, 0.3, (4000, 3))
    found = sample_variance(a, b)
    assert found.items == pytest.approx(0.02, abs=0.01)
    assert found.samples == pytest.approx(0.34, rel=0.03)
    with pytest.raises(ValueError, match="samples_a has shape"):
        sample_variance([[1], [0]], [[1], [0]])


def test_samples_lower_the_number_of_items() -> None:
    variance = SampleVariance(items=0.01, samples=0.3)
    needed = [items_needed_of_samples(0.05, variance, k) for k in (1, 4, 16, 10**6)]
    z = norm.isf(0.025) + norm.isf(0.2)
    assert needed == sorted(needed, reverse=True)
    for k, n in zip((1, 4, 16, 10**6), needed, strict=True):
        # Guenther (1981): the t-test needs z^2 / 2 more than the normal approximation.
        expected = z**2 * (0.01 + 0.3 / k) / 0.05**2 + norm.isf(0.025) ** 2 / 2
        assert n == pytest.approx(expected, abs=1.5)


def test_items_of_samples_reach_their_power() -> None:
    rng = np.random.default_rng(1)
    n = items_needed_of_samples(0.1, SampleVariance(0.02, 0.2), 4)
    values = rng.normal(0.1, np.sqrt(0.02 + 0.05), (4000, n))
    assert (ttest_1samp(values, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("effect", "samples", "spread"), [(0, 4, 0.1), (0.1, 0, 0.1), (0.1, 4, 0)])
def test_items_of_samples_refuses_what_cannot_be(effect, samples, spread) -> None:
    with pytest.raises(ValueError, match="effect is"):
        items_needed_of_samples(effect, SampleVariance(spread, 0.0), samples)


def test_very_many_items_go_on_where_the_table_ends() -> None:
    """Above 32,768 items the rejection region is found count by count."""
    either_side = [smallest_effect(n, 0.1) * math.sqrt(n) for n in (32_768, 32_769)]
    assert either_side[0] == pytest.approx(either_side[1], rel=1e-3)
    normal = (norm.isf(0.025) + norm.isf(0.2)) * math.sqrt(0.1)
    assert either_side[1] == pytest.approx(normal, rel=0.01)
