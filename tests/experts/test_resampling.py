"""Documents are drawn again within their domain; a resample is a text of its own."""

import numpy as np
import pytest

from dsmoe_eval.experts import choose_experts, count_routing, get_method, resample_documents

from .conftest import random_pass


def made(seed, phase="prompt"):
    with random_pass(seed) as (seen, _):
        counts = count_routing(seen).in_phase(phase)
        counts.total()  # read while the files are there
        return counts


def test_each_domain_keeps_its_number_of_documents():
    counts = made(0)
    for number in range(1, 20):
        again = resample_documents(counts, number, 0)
        for domain in range(len(counts.domains)):
            rows = counts.domain == domain
            assert again.weight[rows].sum() == rows.sum()
        assert (again.weight == again.weight.round()).all()


def test_resamples_have_seeds_of_their_own():
    counts = made(0)
    weights = [
        tuple(resample_documents(counts, number, seed).weight)
        for number in range(1, 6)
        for seed in range(5)
    ]
    assert len(set(weights)) > 15
    assert weights[7] == tuple(resample_documents(counts, 2, 2).weight)


def test_a_resample_counts_like_a_text_with_its_documents():
    counts = made(3)
    again = resample_documents(counts, 1, 0)
    rows = np.repeat(np.arange(len(counts.domain)), again.weight.astype(int))
    text = counts._take(rows).resampled(np.ones(len(rows)))
    for domain in counts.domains:
        np.testing.assert_allclose(again.of(domain).used, text.of(domain).used)
        np.testing.assert_allclose(again.all_but(domain).gate_mean, text.all_but(domain).gate_mean)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_equal_weights_choose_the_same_experts(weight):
    counts = made(5)
    for name in ("risk-difference", "dsmoe", "esft-gate"):
        full, again = (
            {
                (one.layer, one.expert)
                for one in choose_experts(get_method(name), which, counts.domains[0], 2)
            }
            for which in (counts, counts.resampled(np.full(len(counts.domain), weight)))
        )
        assert full == again


def test_counts_of_both_phases_are_refused():
    with random_pass(0) as (seen, _), pytest.raises(ValueError, match="row in each phase"):
        resample_documents(count_routing(seen), 1, 0)
