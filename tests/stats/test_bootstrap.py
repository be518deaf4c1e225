"""Intervals against scipy and the linearised standard error; stability against plain loops."""

import numpy as np
import pytest
from scipy.stats import bootstrap, norm
from scipy.stats import t as student

from dsmoe_eval.stats import (
    DocumentCounts,
    bootstrap_intervals,
    chance_jaccard,
    excess_use,
    top_stability,
)


def random_counts(seed, sizes, units=6):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    tokens = generator.integers(5, 60, labels.size)
    rates = generator.beta(2, 8, (labels.size, units))
    return DocumentCounts(generator.binomial(tokens[:, None], rates), tokens, labels)


def test_scipy_finds_the_same_intervals():
    """Few documents and a low level, where the expansion moves a bound by 0.06 of the width."""
    sizes, level = (20, 5, 30), 0.5
    counts = random_counts(0, sizes)
    ours = bootstrap_intervals(counts, np.random.default_rng(1), 20_000, level)
    reach = student.ppf((1 + level) / 2, sizes[1] - 1) * np.sqrt(sizes[1] / (sizes[1] - 1))
    expanded = 1 - 2 * norm.cdf(-reach)
    groups = [np.flatnonzero(counts.labels == domain) for domain in (1, 0, 2)]
    for unit in range(3):

        def effect(own, one, other, axis=-1, unit=unit):
            rest = np.concatenate([one, other], axis=axis)
            rates = [
                counts.used[drawn, unit].sum(axis) / counts.tokens[drawn].sum(axis)
                for drawn in (own, rest)
            ]
            return np.array([rates[0] - rates[1], rates[0] / rates[1]])

        scipys = bootstrap(
            groups, effect, n_resamples=20_000, confidence_level=expanded, method="percentile",
            rng=np.random.default_rng(2),
        ).confidence_interval  # fmt: skip
        found = np.array([ours.difference[:, 1, unit], ours.lift[:, 1, unit]])
        expected = np.stack([scipys.low, scipys.high], axis=1)
        width = expected[:, 1:] - expected[:, :1]
        assert (np.abs(found - expected) < 0.03 * width).all()


def test_many_documents_give_the_linearised_interval():
    counts = random_counts(3, (400, 300))
    low, high = bootstrap_intervals(counts, np.random.default_rng(0), 4000).difference
    variance = 0
    for side in (counts.labels == 0, counts.labels == 1):
        used, tokens = counts.used[side], counts.tokens[side][:, None]
        residuals = used - used.sum(0) / tokens.sum() * tokens
        variance = variance + (residuals**2).sum(0) / tokens.sum() ** 2
    np.testing.assert_allclose(high - low, np.stack([2 * 1.96 * np.sqrt(variance)] * 2), rtol=0.06)
    middle = excess_use(counts).difference
    assert ((low < middle) & (middle < high)).all()


def test_what_does_not_vary_has_no_width():
    tokens = np.array([4, 8, 12, 6, 10, 20])
    counts = DocumentCounts(
        np.stack([0 * tokens, tokens], axis=1), tokens, np.array([0, 0, 1, 1, 2, 2])
    )
    intervals = bootstrap_intervals(counts, np.random.default_rng(0), 50)
    assert (intervals.difference == 0).all()
    assert (intervals.lift == 1).all()


def test_the_order_of_domains_mirrors_the_interval():
    """Of two domains one's excess is the other's lack."""
    counts = random_counts(5, (15, 15))
    low, high = bootstrap_intervals(counts, np.random.default_rng(0), 500).difference
    np.testing.assert_allclose(low[0], -high[1])
    np.testing.assert_allclose(high[0], -low[1])


@pytest.mark.parametrize(("resamples", "level"), [(0, 0.95), (10, 0.0), (10, 1.0)])
def test_impossible_requests_are_refused(resamples, level):
    with pytest.raises(ValueError, match="give"):
        bootstrap_intervals(random_counts(0, (3, 3)), np.random.default_rng(0), resamples, level)


def test_stability_is_the_jaccard_index_of_two_resamples():
    """The same draws, with sets and loops."""
    counts, chosen, pairs = random_counts(7, (9, 6, 8), units=12), np.array([3, 0, 12]), 15
    found = top_stability(counts, chosen, np.random.default_rng(4), pairs)
    generator, expected = np.random.default_rng(4), []
    for _ in range(pairs):
        weights = np.zeros((2, counts.tokens.size))
        for domain, size in enumerate((9, 6, 8)):
            drawn = generator.multinomial(size, np.full(size, 1 / size), size=2)
            weights[:, counts.labels == domain] = drawn
        tops = []
        for weight in weights:
            repeated = np.repeat(np.arange(counts.tokens.size), weight.astype(int))
            used, tokens, labels = (
                each[repeated] for each in (counts.used, counts.tokens, counts.labels)
            )
            effect = excess_use(DocumentCounts(used, tokens, labels)).difference[0]
            tops.append(set(sorted(range(12), key=lambda unit: (-effect[unit], unit))[:3]))
        expected.append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
    assert found[0] == pytest.approx(np.mean(expected))
    assert np.isnan(found[1])
    assert found[2] == 1


def test_a_clear_choice_is_stable_and_a_blind_one_is_not():
    counts = random_counts(8, (40, 40), units=60)
    used = counts.used.copy()
    used[counts.labels == 0, :5] = counts.tokens[counts.labels == 0, None]
    clear = DocumentCounts(used, counts.tokens, counts.labels)
    assert top_stability(clear, np.array([5, 5]), np.random.default_rng(0), 20)[0] == 1
    blind = top_stability(counts, np.array([5, 5]), np.random.default_rng(0), 20)
    assert (blind < 0.6).all()


def test_blind_sets_have_the_chance_index():
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        one, other = (set(generator.choice(50, 20, replace=False)) for _ in range(2))
        shares.append(len(one & other) / len(one | other))
    assert np.mean(shares) == pytest.approx(chance_jaccard(20, 50), abs=0.01)


@pytest.mark.parametrize("chosen", [[1], [-1, 1], [7, 1]])
def test_impossible_sets_are_refused(chosen):
    counts = random_counts(0, (3, 3))
    with pytest.raises(ValueError, match="one size"):
        top_stability(counts, np.array(chosen), np.random.default_rng(0))
    with pytest.raises(ValueError, match="pairs is 0"):
        top_stability(counts, np.array([1, 1]), np.random.default_rng(0), 0)
