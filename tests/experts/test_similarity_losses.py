"""Losses on similar experts: against NumPy, and at which level they see unrelated outputs."""

import itertools

import numpy as np
import pytest
import torch

from dsmoe_eval.experts.similarity_losses import (
    PairCounters,
    above,
    balance_loss,
    co_selection,
    debiased_cka,
    hinge,
    most_shared,
    published_cka,
)


def outputs(n, width, seed, scale=1.0, shared=0.0):
    draw = np.random.default_rng(seed)
    common, first, second = (draw.normal(size=(n, width)) for _ in range(3))
    return scale * (shared * common + first), scale * (shared * common + second)


def tensors(*arrays):
    return [torch.from_numpy(one) for one in arrays]


def numpy_published(x, y, width):
    """CKA with explicit centring matrices and explicit distances."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n

    def gram(rows):
        kernel = [[np.exp(-np.sum((a - b) ** 2) / (2 * width**2)) for b in rows] for a in rows]
        return centring @ np.array(kernel) @ centring

    one, other = gram(x), gram(y)
    return np.sum(one * other) / np.sqrt(np.sum(one * one) * np.sum(other * other))


def numpy_debiased(x, y):
    """CKA of the estimator HSIC_1 in the form of Song et al. 2012, Eq. 5: traces and sums."""
    n = len(x)

    def hsic(a, b):
        k, m = (a @ a.T).copy(), (b @ b.T).copy()
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        ones = np.ones(n)
        sums = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + sums - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shared", [0.0, 0.7, 3.0])
def test_both_equal_numpy(seed, shared):
    x, y = outputs(24, 5, seed, 0.6, shared)
    assert float(published_cka(*tensors(x, y))) == pytest.approx(numpy_published(x, y, 0.8), 1e-6)
    assert float(debiased_cka(*tensors(x, y))) == pytest.approx(numpy_debiased(x, y), 1e-6)


def test_balance_equals_a_loop_over_tokens():
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(6), size=40)
    indices = np.argsort(-probabilities, axis=1)[:, :2]
    expected = 0.0
    for expert in range(6):
        share = np.mean([expert == chosen for row in indices for chosen in row])
        expected += 6 * share * np.mean([row[expert] for row in probabilities])
    assert float(balance_loss(*tensors(probabilities, indices))) == pytest.approx(expected, 1e-6)


def test_balance_is_one_for_an_even_load_and_e_for_a_collapsed_one():
    even = torch.full((8, 4), 0.25)
    assert float(balance_loss(even, torch.arange(16).reshape(8, 2) % 4)) == pytest.approx(1)
    collapsed = torch.tensor([[1.0, 0, 0, 0]]).repeat(8, 1)
    assert float(balance_loss(collapsed, torch.zeros(8, 1, dtype=torch.long))) == pytest.approx(4)


@pytest.mark.parametrize(
    ("n", "scale", "level"), [(100, 0.5, 0.97), (32, 0.5, 0.99), (100, 1.0, 1.0), (32, 2.0, 1.0)]
)
def test_the_published_estimator_calls_unrelated_outputs_alike(n, scale, level):
    """Facts of the published code at its 16 dimensions: `anchors.md`, C, a."""
    found = [float(published_cka(*tensors(*outputs(n, 16, seed, scale)))) for seed in range(5)]
    assert np.mean(found) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("n", [8, 32, 100, 400])
def test_the_debiased_one_is_near_zero_for_unrelated_outputs(n):
    found = [float(debiased_cka(*tensors(*outputs(n, 16, seed)))) for seed in range(100)]
    error = np.std(found, ddof=1) / 10
    assert abs(np.mean(found)) < 4 * error + 0.01
    assert abs(np.mean(found)) < 0.05


def test_the_debiased_one_is_one_for_a_rotation_and_has_a_gradient():
    x, y = tensors(*outputs(70, 6, 0, shared=2.0))
    turned, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    assert float(debiased_cka(x, 3 * x @ turned + 1)) == pytest.approx(1)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: debiased_cka(rows, y), x)
    assert torch.autograd.gradcheck(lambda rows: published_cka(rows, y), x)


def test_outputs_that_are_all_zero_have_no_similarity_and_no_nan():
    zero = torch.zeros(64, 4, requires_grad=True)
    value = hinge(debiased_cka(zero, torch.randn(64, 4)))
    value.backward()
    assert float(value.detach()) == 0
    assert torch.isfinite(zero.grad).all()


def test_thresholds():
    values = torch.tensor([0.2, 0.5, 0.75])
    assert above(values).tolist() == [0, 0, 0.75]
    assert hinge(values).tolist() == [0, 0, 0.25]


def brute_force(indices, experts):
    found = np.zeros((experts, experts))
    for row in indices.tolist():
        for pair in itertools.combinations(sorted(row), 2):
            found[pair] += 1
    return found


def test_pairs_equal_brute_force():
    indices = torch.stack([torch.randperm(7)[:3] for _ in range(90)])
    expected = brute_force(indices, 7)
    assert co_selection(indices, 7).numpy() == pytest.approx(expected)
    pairs = most_shared(indices, 7, most=3, fewest=2)
    assert [len(one.rows) for one in pairs] == sorted(expected.flatten())[-3:][::-1]
    for one in pairs:
        assert all({one.first, one.second} <= set(row) for row in indices[one.rows].tolist())
    assert most_shared(indices, 7, fewest=91) == ()


def test_counters_add_shares_and_begin_anew():
    counters = PairCounters(3, often=1.0)
    batch = torch.tensor([[0, 1], [1, 0], [0, 2]])
    assert counters.due(batch) == ()  # shares 2/3 and 1/3
    (pair,) = counters.due(batch)
    assert (pair.first, pair.second, pair.rows.tolist()) == (0, 1, [0, 1])
    assert counters.counts[0, 1] == 0
    assert float(counters.counts[0, 2]) == pytest.approx(2 / 3)
    assert counters.due(torch.tensor([[0, 2], [1, 2]])) == ()  # only one token: it waits
