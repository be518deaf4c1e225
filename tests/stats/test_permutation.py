"""The permutation test against enumeration, scipy, and simulated documents."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom, permutation_test

from dsmoe_eval.stats import (
    DocumentCounts,
    DocumentSums,
    benjamini_hochberg,
    excess_use,
    fewest_discoveries,
    permutation_p_values,
)


def counts_of(used, tokens, labels):
    return DocumentCounts(np.array(used), np.array(tokens), np.array(labels))


def random_counts(seed, documents=7, units=5, domains=2):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, 20, documents)
    used = generator.binomial(tokens[:, None], generator.uniform(0.05, 0.7, units))
    labels = np.arange(documents) % domains
    return DocumentCounts(used, tokens, generator.permutation(labels))


def studentised(used, tokens, own):
    """One unit, in the plainest words: difference of ratio estimates over its standard error."""
    rates, variances = [], []
    for side in (own, ~own):
        u, t = used[side].astype(float), tokens[side].astype(float)
        rate = u.sum() / t.sum()
        residuals = (u - rate * t) / t.mean()
        rates.append(rate)
        variances.append((residuals**2).sum() / (len(u) - 1) / len(u))
    difference = rates[0] - rates[1]
    if abs(difference) < 1e-12:
        return 0.0
    return difference / np.sqrt(sum(variances)) if sum(variances) > 1e-15 else np.inf * difference


def exact_p_value(counts, domain, unit):
    """Over all ways of choosing the domain's documents."""
    n, size = counts.tokens.size, int((counts.labels == domain).sum())
    groups = itertools.combinations(range(n), size)
    statistics = [
        studentised(counts.used[:, unit], counts.tokens, np.isin(np.arange(n), group))
        for group in groups
    ]
    observed = studentised(counts.used[:, unit], counts.tokens, counts.labels == domain)
    return np.mean(np.array(statistics) >= observed - 1e-9 * abs(observed))


class Every:
    """In place of a generator: every labelling once, as if drawn."""

    def __init__(self, labels):
        self.labellings = np.array(sorted(set(itertools.permutations(labels.tolist()))))

    def permuted(self, tiled, axis):
        assert axis == 1
        assert len(tiled) == len(self.labellings)
        return self.labellings


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("domains", [2, 3])
def test_every_labelling_gives_the_exact_p_value(seed, domains):
    counts = random_counts(seed, documents=7, domains=domains)
    every = Every(counts.labels)
    n = len(every.labellings)
    p_values = permutation_p_values(counts, every, n)
    for domain, unit in np.ndindex(p_values.shape):
        reached = round(exact_p_value(counts, domain, unit) * n)
        assert p_values[domain, unit] == pytest.approx((1 + reached) / (1 + n), abs=1e-12)


def test_shuffles_come_near_the_exact_p_value():
    counts, draws = random_counts(1, documents=8), 20_000
    p_values = permutation_p_values(counts, np.random.default_rng(0), draws)
    for domain, unit in np.ndindex(p_values.shape):
        exact = exact_p_value(counts, domain, unit)
        error = 4 * np.sqrt(exact * (1 - exact) / draws) + 1 / draws
        assert p_values[domain, unit] == pytest.approx(exact, abs=error)


def test_scipy_agrees():
    counts = random_counts(3, documents=9)
    groups = [np.flatnonzero(counts.labels == domain) for domain in (0, 1)]
    for unit in range(counts.used.shape[1]):

        def statistic(own, _rest, unit=unit):
            chosen = np.isin(np.arange(9), own)
            return studentised(counts.used[:, unit], counts.tokens, chosen)

        exact = permutation_test(
            groups, statistic, n_resamples=np.inf, alternative="greater", vectorized=False
        )
        assert exact.pvalue == pytest.approx(exact_p_value(counts, 0, unit))


seeds = st.integers(0, 10_000)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, factor=st.sampled_from([2, 3, 20_000]), domains=st.integers(2, 4))
def test_names_and_scale_do_not_matter(seed, factor, domains):
    """The factor takes sums beyond what 32-bit floats hold exactly."""
    counts = random_counts(seed, documents=12, domains=domains)
    base = permutation_p_values(counts, np.random.default_rng(5), 200)
    scaled = DocumentCounts(factor * counts.used, factor * counts.tokens, counts.labels)
    assert (permutation_p_values(scaled, np.random.default_rng(5), 200) == base).all()
    names = np.random.default_rng(seed).permutation(domains)
    renamed = DocumentCounts(counts.used, counts.tokens, names[counts.labels])
    assert (permutation_p_values(renamed, np.random.default_rng(5), 200)[names] == base).all()
    units = np.random.default_rng(seed).permutation(counts.used.shape[1])
    moved = DocumentCounts(counts.used[:, units], counts.tokens, counts.labels)
    assert (permutation_p_values(moved, np.random.default_rng(5), 200) == base[:, units]).all()
    assert ((base >= 1 / 201) & (base <= 1)).all()


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_blocks_do_not_matter(seed):
    """Other units beside a unit change the size of a block, not its p-value."""
    counts = random_counts(seed, documents=10)
    wide = DocumentCounts(np.tile(counts.used, (1, 9)), counts.tokens, counts.labels)
    base = permutation_p_values(counts, np.random.default_rng(1), 300)
    assert (permutation_p_values(wide, np.random.default_rng(1), 300)[:, :5] == base).all()


def test_units_without_a_difference_have_p_one():
    """Never used; used by every token; by the same share of every document."""
    tokens = np.array([4, 8, 12, 6, 10, 20])
    used = np.stack([0 * tokens, tokens, tokens // 2], axis=1)
    p_values = permutation_p_values(
        DocumentCounts(used, tokens, np.array([0, 0, 1, 1, 2, 2])), np.random.default_rng(0), 99
    )
    assert (p_values == 1).all()


def test_a_constant_difference_is_as_large_as_can_be():
    """Both sides without any spread: the standard error is zero, and no rounding hides that."""
    labels = np.repeat([0, 1], 4)
    tokens = np.array([1, 2, 5, 9, 3, 4, 7, 8]) * 1001
    rates = np.stack([np.arange(2, 40), np.arange(1, 39)])[labels]  # units of 1 / 1001
    counts = DocumentCounts(tokens[:, None] // 1001 * rates, tokens, labels)
    every = Every(labels)
    p_values = permutation_p_values(counts, every, len(every.labellings))
    # One labelling is as good for the first domain; for the second all are.
    assert (p_values[0] == 2 / 71).all()
    assert (p_values[1] == 1).all()


def test_effects_are_ratios_of_sums():
    counts = counts_of([[1, 0], [3, 0], [0, 2], [4, 0]], [2, 6, 10, 10], [0, 0, 1, 1])
    effect = excess_use(counts)
    np.testing.assert_allclose(effect.rate, [[0.5, 0], [0.2, 0.1]])
    np.testing.assert_allclose(effect.rest_rate, effect.rate[::-1])
    np.testing.assert_allclose(effect.difference, [[0.3, -0.1], [-0.3, 0.1]])
    # The second unit is never used by the first domain's 8 tokens: half a use is taken.
    np.testing.assert_allclose(effect.lift, [[2.5, 0], [0.4, 0.1 / (0.5 / 8)]])
    assert excess_use(counts_of([[0]] * 4, [1] * 4, [0, 0, 1, 1])).lift.tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("used", "tokens", "labels", "words"),
    [
        ([[1]] * 3, [2] * 3, [0, 0, 1], "domain 1 has 1 document"),
        ([[1]] * 4, [2] * 4, [0, 0, 2, 2], "domain 1 has 0 document"),
        ([[1]] * 3, [2] * 3, [0, 0, 0], "one domain"),
        ([[3]] * 4, [2] * 4, [0, 0, 1, 1], "more than all tokens"),
        ([[-1]] * 4, [2] * 4, [0, 0, 1, 1], "fewer than 0"),
        ([[0]] * 4, [0] * 4, [0, 0, 1, 1], "no tokens"),
        ([[1]] * 4, [2] * 4, [-1, -1, 1, 1], "numbered from 0"),
        ([[1]] * 3, [2] * 4, [0, 0, 1, 1], "shape"),
        ([1] * 4, [2] * 4, [0, 0, 1, 1], "shape"),
        ([[0.5]] * 4, [2] * 4, [0, 0, 1, 1], "whole numbers"),
    ],
)
def test_impossible_counts_are_refused(used, tokens, labels, words):
    with pytest.raises(ValueError, match=words):
        counts_of(used, tokens, labels)


def test_no_shuffle_is_refused():
    with pytest.raises(ValueError, match="permutations is 0"):
        permutation_p_values(random_counts(0), np.random.default_rng(0), 0)


@given(hypotheses=st.integers(1, 300), permutations=st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_resolution_is_what_the_rule_can_declare(hypotheses, permutations):
    fewest = fewest_discoveries(hypotheses, permutations, 0.05)
    for count in (fewest - 1, fewest):
        if 0 < count <= hypotheses:
            p_values = np.ones(hypotheses)
            p_values[:count] = 1 / (permutations + 1)
            found = (benjamini_hochberg(p_values) <= 0.05 + 1e-12).sum()
            assert found == (count if count == fewest else 0)


@pytest.fixture(scope="module")
def calibration():
    """The script that writes reports/existence/calibration.md."""
    path = Path(__file__).resolve().parents[2] / "benchmarks/calibration_existence.py"
    spec = importlib.util.spec_from_file_location("calibration_existence", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


SETS = 80


def most_by_chance(sets=SETS, level=0.05):
    """A test that keeps its level is above this once in a thousand times."""
    return binom.ppf(0.999, sets, level) / sets


@pytest.mark.parametrize("name", ["30 documents a domain", "8 documents a domain"])
def test_null_documents_are_rarely_discovered_and_null_tokens_always(calibration, name):
    hits = calibration.any_discovery(calibration.null_sets(calibration.NULLS[name], SETS))
    ours, _, tokens = (each.mean() for each in hits.values())
    assert ours <= most_by_chance()
    assert tokens > 0.9


def test_domains_of_different_length_need_the_standard_error(calibration):
    name = "median tokens 15, 120, 120, 120; concentration 60"
    hits = calibration.any_discovery(calibration.null_sets(calibration.NULLS[name], 160))
    ours, bare, _ = (each.mean() for each in hits.values())
    assert ours <= most_by_chance(160)
    assert bare > most_by_chance(160)


def test_planted_experts_are_found_and_little_else(calibration):
    world = calibration.World(documents=30, boost=3.0, planted=calibration.PLANTED)
    out = calibration.try_planted(world, calibration.truth(world, 2000), 12, 0)
    assert out.power.mean() > 0.9
    assert out.false_share.mean() < 0.06
    assert 0.92 < out.covered.mean() < 0.97


def test_shuffled_tokens_are_the_hypergeometric_tail(calibration):
    """The script's short cut, against shuffling tokens."""
    counts, generator = random_counts(2, documents=6, units=1), np.random.default_rng(0)
    used = np.concatenate([
        np.repeat([1, 0], [u, t - u])
        for u, t in zip(counts.used[:, 0], counts.tokens, strict=True)
    ])  # fmt: skip
    own = np.repeat(counts.labels, counts.tokens) == 0
    shuffled = np.array([generator.permutation(used)[own].sum() for _ in range(4000)])
    share = (shuffled >= used[own].sum()).mean()
    found = calibration.tokens_shuffled(counts, generator, 0)[0, 0]
    assert found == pytest.approx(share, abs=0.03)
    assert found == hypergeom.sf(used[own].sum() - 1, used.size, used.sum(), own.sum())


def test_sums_of_any_sign_have_the_exact_test_too():
    """Over all choices of a domain's documents, and unchanged by the unit of the values."""
    generator = np.random.default_rng(3)
    tokens, labels = generator.integers(3, 20, 8), np.arange(8) % 2
    values = generator.normal(0, 1e-4, (8, 3)) * tokens[:, None]
    values[labels == 1, 0] += 1e-4 * tokens[labels == 1]
    sums = DocumentSums(values, tokens, labels)
    p_value = permutation_p_values(sums, np.random.default_rng(0), 4999)
    exact = [[exact_p_value(sums, domain, unit) for unit in range(3)] for domain in range(2)]
    assert p_value == pytest.approx(np.array(exact), abs=0.02)
    other = DocumentSums(values * 2.0**20, tokens, labels)
    assert (permutation_p_values(other, np.random.default_rng(0), 4999) == p_value).all()
    found = excess_use(sums)
    assert found.rate[1] == pytest.approx(values[labels == 1].sum(0) / tokens[labels == 1].sum())
    assert np.isnan(found.lift).all()


def test_whole_numbers_are_tested_alike_as_counts_and_as_sums():
    counts = random_counts(1, documents=9)
    sums = DocumentSums(counts.used.astype(float), counts.tokens, counts.labels)
    as_counts, as_sums = (
        permutation_p_values(each, np.random.default_rng(0), 299) for each in (counts, sums)
    )
    assert (as_counts == as_sums).all()
    with pytest.raises(ValueError, match="not finite"):
        DocumentSums(np.full((9, 5), np.nan), counts.tokens, counts.labels)
