"""Several domains, against brute force."""

import numpy as np
import pytest

from dsmoe_eval.stats import compare_paired, compare_strata


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
