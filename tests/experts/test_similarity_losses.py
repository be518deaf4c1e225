"""The losses against NumPy and the definition of HSIC; the published estimator's saturation."""

from itertools import combinations

import numpy as np
import pytest
import torch

from dsmoe_eval.experts.similarity import cka
from dsmoe_eval.experts.similarity_losses import (
    PairCounters,
    balance_loss,
    co_selected,
    debiased_cka,
    published_cka,
    shared_tokens,
    top_pairs,
)

EXPERTS = np.tile(range(6), (50, 1))


def outputs(seed, n, spread=1.0, width=16):
    drawn = np.random.default_rng(seed).normal(0, spread, (2, n, width))
    return drawn[0], drawn[1] + 0.5 * drawn[0] if seed % 2 else drawn[1]


def published_by_hand(x, y, sigma=0.8):
    """H K H with H as a matrix, and kernels row by row."""
    n = len(x)
    centre = np.eye(n) - 1 / n

    def kernel(rows):
        return np.array(
            [[np.exp(-((a - b) ** 2).sum() / 2 / sigma**2) for b in rows] for a in rows]
        )

    k, m = (centre @ kernel(rows) @ centre for rows in (x, y))
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def hsic_1(k, m):
    """Song et al. 2012, equation 4."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    middle = k.sum() * m.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * (k @ m).sum()
    return (np.trace(k @ m) + middle) / n / (n - 3)


def debiased_by_hand(x, y):
    k, m = x @ x.T, y @ y.T
    return hsic_1(k, m) / np.sqrt(hsic_1(k, k) * hsic_1(m, m))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [4, 17])
def test_both_equal_numpy(seed, n):
    x, y = outputs(seed, n, 0.3)
    a, b = torch.tensor(x), torch.tensor(y)
    assert float(published_cka(a, b)) == pytest.approx(published_by_hand(x, y), abs=1e-9)
    assert float(debiased_cka(a, b)) == pytest.approx(debiased_by_hand(x, y), abs=1e-9)
    assert float(debiased_cka(a, b)) == pytest.approx(cka(a, b), abs=1e-9)


def test_gradients_are_those_of_finite_differences():
    x, y = (torch.tensor(rows[:6, :3], requires_grad=True) for rows in outputs(1, 6, 0.4))
    torch.autograd.gradcheck(debiased_cka, (x, y))
    torch.autograd.gradcheck(published_cka, (x, y))


@pytest.mark.parametrize(("spread", "n", "level"), [(0.5, 100, 0.97), (0.5, 32, 0.99), (1, 100, 1)])
def test_the_published_one_finds_unrelated_outputs_alike(spread, n, level):
    pairs = [outputs(2 * seed, n, spread) for seed in range(10)]
    found = np.mean([float(published_cka(*map(torch.tensor, pair))) for pair in pairs])
    assert found == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("n", [8, 32, 100, 400])
def test_the_debiased_one_does_not(n):
    pairs = [outputs(2 * seed, n) for seed in range(60)]
    found = [float(debiased_cka(*map(torch.tensor, pair))) for pair in pairs]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found)) + 0.01


@pytest.mark.parametrize("loss", [published_cka, debiased_cka])
def test_equal_rows_give_nought_and_no_nan(loss):
    x = torch.ones(5, 3, requires_grad=True)
    value = loss(x, torch.eye(5, 3))
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(x.grad, torch.zeros(5, 3))


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="needs 4 rows, not 3"):
        debiased_cka(torch.eye(3), torch.eye(3))


def test_pairs_are_counted_as_one_by_one():
    indices = torch.tensor(np.random.default_rng(0).permuted(EXPERTS, axis=1)[:, :3])
    counts = co_selected(indices, 6)
    by_hand = {
        (i, j): sum({i, j} <= set(row) for row in indices.tolist())
        for i, j in combinations(range(6), 2)
    }
    assert {pair: int(counts[pair]) for pair in by_hand} == by_hand
    assert float(counts.sum()) == sum(by_hand.values())
    best = sorted(by_hand, key=lambda pair: (-by_hand[pair], pair))
    fewest = by_hand[best[2]]
    assert top_pairs(counts, 2, fewest) == best[:2]
    assert top_pairs(counts, 9, fewest) == [p for p in best if by_hand[p] >= fewest][:9]
    for pair in best:
        assert len(shared_tokens(indices, pair)) == by_hand[pair]


def test_a_counter_adds_shares_and_starts_again():
    counters, batch = PairCounters(3, 0.5), torch.tensor([[0, 1], [1, 0], [1, 2], [0, 2]])
    assert [list(counters.due(batch)) for _ in range(4)] == [
        [], [(0, 1)], [(0, 2), (1, 2)], [(0, 1)]
    ]  # fmt: skip


def test_balance_equals_a_loop_over_tokens():
    draw = np.random.default_rng(0)
    shares = draw.dirichlet(np.ones(6), size=40)
    indices = np.argsort(-shares, axis=1)[:, :2]
    expected = 0.0
    for expert in range(6):
        selected = np.mean([expert == chosen for row in indices for chosen in row])
        expected += 6 * selected * np.mean([row[expert] for row in shares])
    found = balance_loss(torch.tensor(shares), torch.tensor(indices))
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_balance_is_one_for_an_even_load_and_the_number_of_experts_for_a_collapsed_one():
    even = torch.full((8, 4), 0.25)
    assert float(balance_loss(even, torch.arange(16).reshape(8, 2) % 4)) == pytest.approx(1)
    collapsed = torch.tensor([[1.0, 0, 0, 0]]).repeat(8, 1)
    assert float(balance_loss(collapsed, torch.zeros(8, 1, dtype=torch.long))) == pytest.approx(4)
