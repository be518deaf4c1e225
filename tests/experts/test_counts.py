"""Sums over documents, with weights and by phase."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.experts import count_routing

from .conftest import random_pass

SEEDS = st.integers(0, 10**6)
PASSES = settings(deadline=None, max_examples=25)


@PASSES
@given(SEEDS)
def test_a_weight_of_two_is_a_document_twice(seed):
    with random_pass(seed) as (seen, _):
        counts = count_routing(seen)
        rows = np.arange(len(counts.domain))
        twice = counts._take(np.concatenate([rows, rows[:1]]))
        weight = np.ones(len(rows))
        weight[0] = 2
        for one, other in (("of", ("one",)), ("all_but", ("two",)), ("total", ())):
            a = getattr(counts.resampled(weight), one)(*other)
            b = getattr(twice, one)(*other)
            np.testing.assert_allclose(a.used, b.used)
            np.testing.assert_allclose(a.gate_mean, b.gate_mean)
            assert a.tokens == b.tokens


def test_a_phase_without_tokens_is_refused():
    for seed in range(20):
        with random_pass(seed) as (seen, rows):
            counts = count_routing(seen)
            answered = {row.domain for row in rows if row.generated}
            missing = [domain for domain in seen.domains if domain not in answered]
            if missing:
                with pytest.raises(
                    ValueError, match=f"domains without a generated token: {missing[0]}"
                ):
                    counts.in_phase("generated")
                return
    raise AssertionError("no seed gave a domain without an answer")


def test_sums_of_large_counts_go_by_parts(monkeypatch):
    with random_pass(3) as (seen, _):
        whole = count_routing(seen).total()
        monkeypatch.setattr("dsmoe_eval.experts.counts._VALUES_AT_ONCE", 1)
        parts = count_routing(seen).total()
    for name in ("used", "salient", "gate_mean", "use_mean"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
