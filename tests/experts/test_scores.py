"""Scores from counts, against the formulas read off raw token rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.experts import (
    Observations,
    activation_share,
    best_experts,
    count_routing,
    dsmoe,
    exposure,
    risk_difference,
)

LAYERS, EXPERTS, K = 2, 5, 2


@st.composite
def observations(draw):
    tokens = draw(st.integers(6, 30))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    experts = np.array(
        [
            [generator.choice(EXPERTS, K, replace=False) for _ in range(LAYERS)]
            for _ in range(tokens)
        ]
    )
    domain = generator.integers(0, 2, tokens)
    domain[:2] = [0, 1]
    return Observations(
        domains=("one", "two"),
        layers=(0, 1),
        expert_count=EXPERTS,
        domain=domain,
        saliency=generator.random(tokens).astype(np.float32),
        experts=experts.astype(np.int16),
    )


@given(observations())
def test_eq_8_from_its_conditional_probabilities(seen):
    got = dsmoe(count_routing(seen), "one")
    own = seen.domain == 0
    important = seen.saliency > np.quantile(seen.saliency[own], 0.15)
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            uses = own & (seen.experts[:, layer] == expert).any(-1)
            if not uses.any():
                assert got[layer, expert] == 0
                continue
            p_expert = uses.sum() / own.sum()
            p_important = important[uses].mean()
            expected = p_expert * (p_important - (1 - p_important))
            assert got[layer, expert] == pytest.approx(expected)


@given(observations())
def test_risk_difference_and_exposure(seen):
    counts = count_routing(seen)
    uses = np.stack([(seen.experts == expert).any(-1) for expert in range(EXPERTS)], axis=-1)
    own = seen.domain == 0
    np.testing.assert_allclose(
        risk_difference(counts, "one"), uses[own].mean(0) - uses[~own].mean(0), atol=1e-12
    )
    np.testing.assert_allclose(exposure(counts), uses.mean(0))
    np.testing.assert_allclose(risk_difference(counts, "one").sum(-1), 0, atol=1e-12)


@given(observations(), st.integers(1, 6))
def test_activation_share_counts_activations(seen, count):
    counts = count_routing(seen)
    chosen = best_experts(exposure(counts) + 0.01, counts.layers, count)
    pairs = {(expert.layer, expert.expert) for expert in chosen}
    hits = sum(
        (layer, int(expert)) in pairs
        for token in seen.experts
        for layer, row in enumerate(token)
        for expert in row
    )
    assert activation_share(counts, chosen) == pytest.approx(hits / seen.experts.size)


def test_an_unseen_domain_is_refused():
    seen = Observations(
        domains=("one",), layers=(0,), expert_count=2, domain=np.zeros(3, dtype=np.int64),
        saliency=np.ones(3, dtype=np.float32), experts=np.zeros((3, 1, 1), dtype=np.int16),
    )  # fmt: skip
    counts = count_routing(seen)
    with pytest.raises(ValueError, match="no text of domain 'law'"):
        dsmoe(counts, "law")
    with pytest.raises(ValueError, match="at least one other domain"):
        risk_difference(counts, "one")
