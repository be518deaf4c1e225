"""Chosen experts against the others: sums by hand, and the whole permutation distribution."""

import itertools

import numpy as np
import pytest

from dsmoe_eval.experts import ExpertSimilarity, set_similarity
from dsmoe_eval.experts.similarity import KERNELS, LayerSimilarity
from dsmoe_eval.steering import ChosenExpert

LAYERS, EXPERTS = (1, 4, 6), 7


def random_matrix(seed):
    x = np.random.default_rng(seed).normal(size=(EXPERTS, 5))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def model_of(matrices):
    layers = tuple(
        LayerSimilarity(layer, 0.0, np.zeros(EXPERTS), both, both, both)
        for layer, both in zip(LAYERS, matrices, strict=True)
    )
    return ExpertSimilarity(tokens=100, texts=100, seed=0, layers=layers)


@pytest.fixture
def found():
    """Three layers of seven experts, both kernels at random."""
    return model_of([{k: random_matrix(10 * n + m) for m, k in enumerate(KERNELS)} for n in LAYERS])


def chosen(*pairs):
    return [ChosenExpert(layer=layer, expert=expert, score=1.0) for layer, expert in pairs]


SET = chosen((1, 0), (1, 3), (1, 5), (6, 2), (6, 3))


def means(found, kernel, members):
    """(within, across, others) pooled over pairs, by loops."""
    pooled = [[], [], []]
    for layer in found.layers:
        own = members.get(layer.layer)
        if own is None:
            continue
        for i, j in itertools.combinations(range(EXPERTS), 2):
            outside = (i not in own) + (j not in own)
            pooled[outside].append(layer.experts[kernel][i, j])
    return [np.mean(pairs) if pairs else None for pairs in pooled]


def members_of(experts):
    members = {}
    for one in experts:
        members.setdefault(one.layer, set()).add(one.expert)
    return members


def test_means_over_pairs_of_the_layers_that_have_a_chosen_expert(found):
    for kernel, got in set_similarity(found, SET, draws=20).items():
        within, across, others = means(found, kernel, members_of(SET))
        assert got["within"]["mean"] == pytest.approx(within)
        assert got["across"]["mean"] == pytest.approx(across)
        assert got["others"] == pytest.approx(others)
        assert (got["within"]["pairs"], got["across"]["pairs"]) == (3 + 1, 3 * 4 + 2 * 5)


def test_the_null_is_that_of_all_sets_of_as_many_experts_in_each_layer(found):
    kernel = "rbf"
    got = set_similarity(found, SET, draws=20_000)[kernel]
    every = [
        means(found, kernel, {1: set(a), 6: set(b)})
        for a in itertools.combinations(range(EXPERTS), 3)
        for b in itertools.combinations(range(EXPERTS), 2)
    ]
    for place, contrast in enumerate((got["within"], got["across"])):
        null = np.array([row[place] for row in every])
        tails = ((null <= contrast["mean"] + 1e-9).mean(), (null >= contrast["mean"] - 1e-9).mean())
        assert contrast["p_value"] == pytest.approx(min(1, 2 * min(tails)), abs=0.02)
        assert contrast["null_mean"] == pytest.approx(null.mean(), abs=0.005)
        low, high = np.quantile(null, [0.025, 0.975])
        assert contrast["null_low"] == pytest.approx(low, abs=0.02)
        assert contrast["null_high"] == pytest.approx(high, abs=0.02)


def test_experts_that_are_alike_are_found():
    alike = np.eye(EXPERTS)
    alike[np.ix_([0, 3, 5], [0, 3, 5])] = 1
    found = model_of([dict.fromkeys(KERNELS, alike)] * 3)
    wanted = chosen(*((layer, expert) for layer in LAYERS for expert in (0, 3, 5)))
    got = set_similarity(found, wanted, draws=5000)["linear"]
    assert (got["within"]["mean"], got["across"]["mean"], got["others"]) == (1, 0, 0)
    assert got["within"]["p_value"] == pytest.approx(2 / 5001)
    assert got["within"]["null_high"] < 0.6
    others = set_similarity(found, chosen((1, 1), (4, 2), (6, 4)), draws=5000)["linear"]
    assert others["within"] is None  # no layer has two
    assert others["across"]["mean"] == 0


def test_a_whole_layer_has_nothing_to_be_compared_with(found):
    got = set_similarity(found, chosen(*((4, expert) for expert in range(EXPERTS))), draws=50)
    assert got["linear"]["across"] is None
    assert got["linear"]["others"] is None
    assert got["linear"]["within"]["p_value"] == 1
    assert got["linear"]["within"]["pairs"] == 21


def test_what_is_refused(found):
    with pytest.raises(ValueError, match="layer 2 has no expert 0"):
        set_similarity(found, chosen((2, 0)))
    with pytest.raises(ValueError, match="layer 1 has no expert 7"):
        set_similarity(found, chosen((1, 7)))
    with pytest.raises(ValueError, match="no expert is chosen"):
        set_similarity(found, [])
