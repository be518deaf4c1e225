"""Rank agreement of scores with measured effects, and chance."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from dsmoe_eval.experts import count_routing, get_method
from dsmoe_eval.studies.agreement import (
    CausalEffects,
    MethodEffects,
    _spearman,
    chance_agreement,
    rank_agreements,
    specific,
)
from tests.experts.conftest import EXPERTS, LAYERS, random_pass

SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.integers(2, 5))
def test_a_specific_effect_is_the_own_loss_minus_the_mean_of_the_others(seed, domains):
    plain = np.random.default_rng(seed).normal(size=(domains, 2, 3))
    got = specific(plain)
    for index in range(domains):
        others = [plain[other] for other in range(domains) if other != index]
        np.testing.assert_allclose(got[index], plain[index] - np.mean(others, axis=0))


def test_plain_effects_are_means_over_a_domains_items():
    effect = np.arange(12.0).reshape(1, 2, 6)
    effects = CausalEffects(("a", "b"), np.array([0, 1, 0, 1, 1, 1]), effect)
    np.testing.assert_allclose(effects.plain()[0], [[1.0, 7.0]])
    np.testing.assert_allclose(effects.plain(np.array([0, 0, 3]))[1], [[3.0, 9.0]])


def test_chance_is_that_of_random_rankings():
    exact = [  # of 5 experts in 1 domain: every ranking
        abs(spearmanr(range(5), ranks).statistic) for ranks in itertools.permutations(range(5))
    ]
    assert chance_agreement(1, 5, 0) == pytest.approx(np.quantile(exact, 0.95), abs=0.051)
    assert chance_agreement(4, 96, 0) == pytest.approx(1.96 / np.sqrt(95 * 4), rel=0.05)


def test_a_method_that_is_the_truth_agrees_fully(monkeypatch):
    monkeypatch.setattr("dsmoe_eval.studies.agreement.RESAMPLES", 3)
    with random_pass(3, saliency=False) as (seen, _):
        counts = count_routing(seen)
        score = get_method("frequency").score
        truth = np.stack([score(counts, domain) for domain in seen.domains])
        effects = CausalEffects(seen.domains, np.arange(3), truth.transpose(1, 2, 0))
        (found,) = rank_agreements(counts, {"frequency": MethodEffects(effects)}, 0).values()
        assert found["agreement_plain"]["value"] == pytest.approx(1.0)
        assert truth.shape == (3, LAYERS, EXPERTS)


def with_influence(counts, seed=0):
    shape = (len(counts.domains), 2, LAYERS, EXPERTS)
    return replace(counts, influence=np.random.default_rng(seed).normal(size=shape))


def test_methods_of_influence_agree_as_their_tables_do_and_vary_as_their_items_do(monkeypatch):
    """Against the correlation of centred tables; the interval is that of the tables drawn."""
    monkeypatch.setattr("dsmoe_eval.studies.agreement.RESAMPLES", 40)
    with random_pass(3, saliency=False) as (seen, _):
        plain = count_routing(seen)
        counts = with_influence(plain)
        measured = np.random.default_rng(1).normal(size=(LAYERS, EXPERTS, 3))
        effects = CausalEffects(seen.domains, np.arange(3), measured)

        def agreement(table):
            scores = table[:, 0] - table[:, 0].mean(-1, keepdims=True)
            pairs = zip(scores, measured.transpose(2, 0, 1), strict=True)
            return np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs])

        def drawn(source):
            return counts.influence + source.normal(size=counts.influence.shape)

        names = ["frequency", "influence"]
        both = {name: MethodEffects(effects) for name in names}
        found = rank_agreements(counts, both, 0, drawn)
        got = found["influence"]["agreement_plain"]
        assert got["value"] == pytest.approx(agreement(counts.influence))
        source = np.random.default_rng([0, 1])
        expected = [agreement(drawn(source)) for _ in range(40)]
        np.testing.assert_allclose(got["ci95"], np.percentile(expected, [2.5, 97.5]))
        # Those of the other methods do not depend on it.
        alone = rank_agreements(plain, {"frequency": MethodEffects(effects)}, 0)
        assert alone["frequency"] == found["frequency"]


def test_influence_whose_items_cannot_be_resampled_is_an_error():
    with random_pass(3, saliency=False) as (seen, _):
        counts = with_influence(count_routing(seen))
        effects = CausalEffects(seen.domains, np.arange(3), np.zeros((LAYERS, EXPERTS, 3)))
        with pytest.raises(ValueError, match="need its items too"):
            rank_agreements(counts, {"influence": MethodEffects(effects)}, 0)


def test_groups_are_ranked_by_their_members_means_for_their_domain(monkeypatch):
    """Against the correlation of means, each domain with the groups that were made for it."""
    monkeypatch.setattr("dsmoe_eval.studies.agreement.RESAMPLES", 2)
    generator = np.random.default_rng(4)
    with random_pass(5, saliency=False) as (seen, _):
        counts = count_routing(seen)
        domains = seen.domains
        members = np.stack([generator.permutation(LAYERS * EXPERTS)[:10] for _ in domains])
        members = members.reshape(len(domains), 5, 2)
        measured = generator.normal(size=(len(domains), 5, 9))
        owner = np.arange(9) % len(domains)
        one = MethodEffects(CausalEffects(domains, owner, measured), members)
        found = rank_agreements(counts, {"frequency": one}, 0)["frequency"]
        each = {"plain": [], "specific": []}
        for at, domain in enumerate(domains):
            scores = get_method("frequency").score(counts, domain).ravel()
            means = [np.mean([scores[unit] for unit in group]) for group in members[at]]
            plain = [measured[at][:, owner == other].mean(1) for other in range(len(domains))]
            rest = np.mean([plain[o] for o in range(len(domains)) if o != at], axis=0)
            each["plain"].append(spearmanr(means, plain[at]).statistic)
            each["specific"].append(spearmanr(means, plain[at] - rest).statistic)
        for kind, values in each.items():
            assert found[f"agreement_{kind}"]["value"] == pytest.approx(np.mean(values))


def test_scores_that_rank_nothing_agree_with_nothing():
    assert _spearman(np.ones(4), np.arange(4.0)) == 0
