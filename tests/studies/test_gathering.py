"""The share of variance between experts, against SciPy; planted and absent gathering."""

import numpy as np
import pytest
from scipy.stats import f_oneway

from dsmoe_eval.stats import excess_use
from dsmoe_eval.studies.documents import DocumentRouting
from dsmoe_eval.studies.gathering import gathering

LAYERS, EXPERTS, SIZE = 2, 4, 6
NEURONS = EXPERTS * SIZE + 5


def documents(planted, together=0.0, seed=0):
    """Thirty documents of three domains; expert 1 of layer 1 leans to the second domain, or the
    neurons of each expert share a rate that varies from document to document."""
    generator = np.random.default_rng(seed)
    experts = np.stack(
        [generator.permutation(NEURONS)[: EXPERTS * SIZE].reshape(EXPERTS, SIZE)] * LAYERS
    )
    labels = np.repeat([0, 1, 2], 10)
    tokens = generator.integers(40, 60, labels.size)
    rates = np.full((labels.size, LAYERS, NEURONS), 0.3)
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            shared = generator.uniform(-together, together, (labels.size, 1))
            rates[:, layer][:, experts[layer, expert]] += shared
    rates[np.ix_(labels == 1, [1], experts[1, 1])] += planted
    used = generator.binomial(tokens[:, None, None], rates)
    routing = DocumentRouting(("a", "b", "c"), tuple(range(LAYERS)), used, tokens, labels)
    return routing, experts


def measured(*given, **options):
    return gathering(*documents(*given, **options), np.random.default_rng(1), shuffles=99)


def test_the_share_is_that_of_an_analysis_of_variance():
    routing, experts = documents(0.2)
    found = gathering(routing, experts, np.random.default_rng(1), shuffles=1)
    t = excess_use(routing.counts()).statistic.reshape(3, LAYERS, NEURONS)
    within = EXPERTS * (SIZE - 1)
    between_sums, totals = np.zeros((3, LAYERS)), np.zeros((3, LAYERS))
    for domain, layer in np.ndindex(3, LAYERS):
        groups = [t[domain, layer, neurons] for neurons in experts[layer]]
        ratio = f_oneway(*groups).statistic * (EXPERTS - 1) / within  # between over within
        total = np.concatenate(groups).var() * EXPERTS * SIZE
        between_sums[domain, layer], totals[domain, layer] = total * ratio / (1 + ratio), total
    assert found.share == pytest.approx(between_sums.sum() / totals.sum())
    np.testing.assert_allclose(found.by_layer, between_sums.sum(0) / totals.sum(0))
    np.testing.assert_allclose(found.by_domain, between_sums.sum(1) / totals.sum(1))


def test_planted_gathering_is_beyond_both_forms_of_chance():
    found = measured(0.3)
    assert found.p_neurons == found.p_labels == 0.01
    assert found.by_layer[1] > 2 * found.by_layer[0]


def test_what_is_active_together_without_domains_is_no_gathering():
    found = measured(0.0, together=0.2)
    assert found.p_neurons == 0.01  # carved by what is active together
    assert found.p_labels > 0.05


def test_no_gathering_is_within_chance():
    found = [measured(0.0, seed=seed) for seed in range(20)]
    for name in ("p_neurons", "p_labels"):
        assert sum(getattr(one, name) <= 0.05 for one in found) <= 4
    assert found[0].to_dict()["share"] == found[0].share


def test_experts_of_another_model_are_refused():
    routing, experts = documents(0.0)
    with pytest.raises(ValueError, match="2 layers of 29 neurons"):
        gathering(routing, experts + 10, np.random.default_rng(0))
