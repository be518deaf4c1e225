"""Several domains, against brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import t as student

from dsmoe_eval.stats import combine_models, compare_paired, compare_strata


def domains(rng, shifts, n=40):
    """Scores of A and B, B gaining by a shift in each domain, and labels."""
    a = rng.random((len(shifts), n))
    b = a + np.array(shifts)[:, None] + rng.normal(0, 0.1, a.shape)
    labels = np.repeat([f"d{i}" for i in range(len(shifts))], n)
    return a.ravel(), b.ravel(), labels


def test_binary_items_are_pooled_by_their_counts() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 90))
    labels = rng.choice(["law", "math", "art"], 90)
    found = compare_strata(a, b, labels)
    assert found.pooled == compare_paired(a, b)
    assert found.strata == ("art", "law", "math")
    assert sum(r.n for r in found.results) == 90
    for name, result in zip(found.strata, found.results, strict=True):
        assert result == compare_paired(a[labels == name], b[labels == name])


def test_the_pooled_test_is_that_of_all_items() -> None:
    a, b = np.random.default_rng(1).random((2, 9))
    found = compare_strata(a, b, np.repeat([0, 1, 2], 3), clusters=[0, 1, 2] * 3)
    assert found.pooled == compare_paired(a, b, clusters=range(9))


def test_strata_at_odds_are_said_to_be() -> None:
    rng = np.random.default_rng(2)
    assert compare_strata(*domains(rng, [0.1, -0.1, 0.0])).conflicting
    assert not compare_strata(*domains(rng, [0.1, 0.05, 0.0])).conflicting
    assert not compare_strata(*domains(rng, [0.0, 0.0, 0.0])).conflicting


def test_a_label_in_two_strata_is_two_clusters() -> None:
    a, b = np.zeros(8), np.tile([0.5, 0.25], 4)
    strata, clusters = np.repeat(["x", "y"], 4), np.tile([0, 0, 1, 1], 2)
    assert compare_strata(a, b, strata, clusters).pooled.clusters == 4


def test_false_conflicts_are_rare() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(25):
        a, b, labels = domains(rng, [0.0] * 4, n=10)
        found.append(compare_strata(a, b, labels).conflicting)
    assert sum(found) <= 1


def test_strata_need_a_label_for_each_item() -> None:
    with pytest.raises(ValueError, match=r"strata has shape \(1,\)"):
        compare_strata([1, 0], [0, 1], ["x"])


def paule_mandel(effects, errors):
    """tau^2 at which the weighted squares equal their degrees of freedom, by root finding."""
    effects, errors = np.array(effects), np.array(errors)

    def surplus(tau2):
        w = 1 / (errors**2 + tau2)
        mean = (w @ effects) / w.sum()
        return (w * (effects - mean) ** 2).sum() - effects.size + 1

    tau2 = brentq(surplus, 0, 100) if surplus(0) > 0 else 0.0
    w = 1 / (errors**2 + tau2)
    return tau2, (w @ effects) / w.sum(), 1 / math.sqrt(w.sum())


@pytest.mark.parametrize(
    ("effects", "errors"),
    [
        ([0.05, 0.02, 0.08], [0.02, 0.017, 0.022]),
        ([0.05, -0.1, 0.08, 0.3], [0.02, 0.01, 0.022, 0.1]),
        ([0.03, 0.031], [0.02, 0.05]),
    ],
)
def test_models_are_combined_as_the_formulas_say(effects, errors) -> None:
    tau2, mean, spread = paule_mandel(effects, errors)
    found = combine_models(effects, errors)
    k = len(effects)
    reach = student.ppf(0.975, k - 1) * spread
    assert found.effect == pytest.approx(mean, abs=1e-6)
    assert found.tau == pytest.approx(math.sqrt(tau2), abs=1e-5)
    assert found.ci95 == pytest.approx((mean - reach, mean + reach), abs=1e-5)
    assert (found.p_value < 0.05) == (found.ci95[0] > 0 or found.ci95[1] < 0)
    if k == 2:
        assert np.isnan(found.prediction95).all()
    else:
        ahead = student.ppf(0.975, k - 2) * math.sqrt(tau2 + spread**2)
        assert found.prediction95 == pytest.approx((mean - ahead, mean + ahead), abs=1e-4)


def test_equal_effects_are_not_surer_than_their_errors() -> None:
    """Plain Hartung-Knapp would give an interval of no width."""
    found = combine_models([0.05, 0.05, 0.05], [0.03, 0.03, 0.03])
    reach = student.ppf(0.975, 2) * 0.03 / math.sqrt(3)
    assert found.ci95 == pytest.approx((0.05 - reach, 0.05 + reach))
    assert (found.tau, found.i_squared) == (0.0, 0.0)


@given(st.lists(st.tuples(st.floats(-0.3, 0.3), st.floats(0.005, 0.1)), min_size=2, max_size=6))
@settings(deadline=None, max_examples=40)
def test_signs_and_order_of_models(models) -> None:
    effects, errors = zip(*models, strict=True)
    found = combine_models(effects, errors)
    other = combine_models([-e for e in effects[::-1]], errors[::-1])
    assert other.effect == pytest.approx(-found.effect, abs=1e-9)
    assert other.p_value == pytest.approx(found.p_value, abs=1e-9)
    assert min(effects) - 1e-9 <= found.effect <= max(effects) + 1e-9
    assert 0 <= found.i_squared <= 1


@pytest.mark.parametrize(
    ("effects", "errors"),
    [([0.1], [0.1]), ([0.1, 0.2], [0.1]), ([0.1, np.nan], [1, 1]), ([0.1, 0.2], [0.1, 0.0])],
)
def test_models_that_cannot_be_combined_are_refused(effects, errors) -> None:
    with pytest.raises(ValueError, match="effect"):
        combine_models(effects, errors)


def test_coverage_of_the_mean_over_four_models() -> None:
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        truth = 0.05 + rng.normal(0, 0.03, 4)
        low, high = combine_models(rng.normal(truth, 0.02), [0.02] * 4).ci95
        covered += low <= 0.05 <= high
    assert covered / 400 >= 0.93
