"""CKA against its textbook sums, what it must not see, and models whose likeness is known."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.experts import cka, effective_rank, expert_similarity
from dsmoe_eval.experts.similarity import KERNELS, cka_matrix, cka_with_null, summarise
from dsmoe_eval.steering import SteeringError, find_routers

from ..conftest import EXPERTS, VOCABULARY, make_model

each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the formulas, written out ----


def naive_gram(x, kernel):
    rows = x.tolist()
    n = len(rows)
    if kernel == "linear":
        return [[sum(a * b for a, b in zip(u, v, strict=True)) for v in rows] for u in rows]
    squares = [[math.dist(u, v) ** 2 for v in rows] for u in rows]
    pairs = sorted(math.sqrt(squares[i][j]) for i in range(n) for j in range(i))
    width = pairs[(len(pairs) - 1) // 2]
    return [[math.exp(-d / (2 * width**2)) for d in row] for row in squares]


def naive_unbiased_hsic(k, m):
    """Song et al. 2012: means over all tuples of different indices."""
    n = range(len(k))
    two = [k[i][j] * m[i][j] for i, j in itertools.permutations(n, 2)]
    four = [k[i][j] * m[q][r] for i, j, q, r in itertools.permutations(n, 4)]
    three = [k[i][j] * m[i][q] for i, j, q in itertools.permutations(n, 3)]
    return sum(two) / len(two) + sum(four) / len(four) - 2 * sum(three) / len(three)


def naive_biased_hsic(k, m):
    """tr(K H L H) / (n - 1)^2."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(np.array(k) @ h @ np.array(m) @ h)) / (n - 1) ** 2


@each_kernel
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [4, 5, 9])
def test_cka_is_the_textbooks(kernel, debiased, n):
    x, y = draw(n, 3), draw(n, 5, seed=1) + 2
    y[:, 0] += x[:, 1]
    hsic = naive_unbiased_hsic if debiased else naive_biased_hsic
    k, m = naive_gram(x, kernel), naive_gram(y, kernel)
    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert cka(x, y, kernel, debiased=debiased) == pytest.approx(expected, abs=1e-10)


def test_linear_cka_is_that_of_features():
    """Kornblith et al. 2019: |Y'X|^2 / (|X'X| |Y'Y|) of centred features."""
    x, y = draw(40, 6), draw(40, 4, seed=1)
    y += x[:, :4]
    a, b = (value - value.mean(0) for value in (x, y))
    expected = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert cka(x, y, debiased=False) == pytest.approx(float(expected), rel=1e-9)


# ---- what it does not see ----


@each_kernel
@pytest.mark.parametrize("debiased", [True, False])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_rotation_scale_and_shift_do_not_matter(kernel, debiased, seed, scale, shift):
    x, y = draw(12, 5, seed=seed), draw(12, 5, seed=seed + 100)
    turn = torch.linalg.qr(draw(5, 5, seed=seed + 200)).Q
    moved = scale * (x @ turn) + shift
    plain = cka(x, y, kernel, debiased=debiased)
    assert cka(moved, y, kernel, debiased=debiased) == pytest.approx(plain, abs=1e-6)
    assert cka(y, x, kernel, debiased=debiased) == pytest.approx(plain, abs=1e-12)
    assert cka(moved, x, kernel, debiased=debiased) == pytest.approx(1, abs=1e-6)


def test_a_large_common_output_does_not_spoil_it():
    """Outputs of one mean, a million times their spread, as attention sinks make them."""
    x, y = draw(200, 20), draw(200, 20, seed=1) + draw(200, 20)
    for kernel in KERNELS:
        far = cka(x + 1e6, y - 1e6, kernel)
        assert far == pytest.approx(cka(x, y, kernel), abs=1e-6)


@each_kernel
def test_only_the_debiased_one_is_zero_for_independent_data(kernel):
    pairs = [(draw(60, 200, seed=2 * k), draw(60, 200, seed=2 * k + 1)) for k in range(10)]
    debiased = [cka(x, y, kernel) for x, y in pairs]
    biased = [cka(x, y, kernel, debiased=False) for x, y in pairs]
    assert abs(np.mean(debiased)) < 0.02
    assert max(np.abs(debiased)) < 0.1
    assert min(biased) > 0.5


# ---- many at once ----


def test_the_matrix_holds_each_pair():
    outputs = [draw(30, 4, seed=k) + draw(30, 4) for k in range(5)]
    matrices = cka_matrix(outputs)
    for kernel in KERNELS:
        expected = [[cka(x, y, kernel) for y in outputs] for x in outputs]
        np.testing.assert_allclose(matrices[kernel], expected, atol=1e-5)
        assert (np.diag(matrices[kernel]) == 1).all()
        assert (matrices[kernel] == matrices[kernel].T).all()


def test_the_null_is_that_of_shuffled_rows():
    same = draw(300, 8)
    plain, null = cka_with_null([same] * 6, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    shuffled = [same[torch.randperm(300, generator=generator)] for _ in range(6)]
    for kernel, expected in cka_matrix(shuffled).items():
        np.testing.assert_allclose(null[kernel], expected, atol=1e-5)
        assert summarise(plain[kernel])["mean"] == pytest.approx(1)
        assert abs(summarise(null[kernel])["mean"]) < 0.02


def test_effective_rank_closed_forms():
    assert effective_rank(np.ones((6, 6))) == pytest.approx(1)
    assert effective_rank(np.eye(6)) == pytest.approx(6)
    groups = np.zeros((6, 6))  # four that are the same, and two
    groups[:4, :4] = groups[4:, 4:] = 1
    entropy = -(4 / 6 * math.log(4 / 6) + 2 / 6 * math.log(2 / 6))
    assert effective_rank(groups) == pytest.approx(math.exp(entropy))
    rho = 0.3  # equal correlation: one eigenvalue 1 + 5 rho, five of 1 - rho
    even = np.full((6, 6), rho) + (1 - rho) * np.eye(6)
    shares = np.array([1 + 5 * rho, *[1 - rho] * 5]) / 6
    assert effective_rank(even) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


def test_a_summary_leaves_out_the_diagonal():
    matrix = np.eye(3)
    matrix[0, 1] = matrix[1, 0] = 0.6
    matrix[1, 2] = matrix[2, 1] = -0.3
    found = summarise(matrix)
    assert found["mean"] == pytest.approx(0.1)
    assert found["alike"] == pytest.approx(1 / 3)
    assert (found["largest"], found["pair"]) == (0.6, (0, 1))


# ---- what has no CKA ----


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(9, 3), "all rows are the same"),
        (torch.full((9, 3), torch.nan), "or NaN"),
        (torch.zeros(9, 3), "all rows are the same"),
        (torch.eye(9)[:, :1].repeat(1, 3) + 5, "most rows are the same"),
        (draw(3, 3), "needs 4 rows, not 3"),
    ],
)
def test_what_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        cka(x, x)
    with pytest.raises(ValueError, match=f"^1: .*{message}"):
        cka_matrix([draw(9, 3), x])


def test_other_observations_are_refused():
    with pytest.raises(ValueError, match="same observations, not 9 and 8"):
        cka(draw(9, 3), draw(8, 3))


# ---- models ----

TEXTS = torch.randint(2, VOCABULARY, (60, 6), generator=torch.Generator().manual_seed(3)).tolist()


def test_identical_experts_are_told_from_random_ones(model):
    """Of each of the seven classes: copies are one expert, drawn ones are many."""
    independent = expert_similarity(model, TEXTS, 120)
    for router in find_routers(model):
        for parameter in router.consumer.parameters():
            parameter.data[:] = parameter.data[:1].clone()
    copies = expert_similarity(model, TEXTS, 120)
    for one, other in zip(independent.layers, copies.layers, strict=True):
        for kernel in KERNELS:
            drawn, same = summarise(one.experts[kernel]), summarise(other.experts[kernel])
            assert same["mean"] == pytest.approx(1, abs=1e-4)
            assert same["effective_rank"] == pytest.approx(1, abs=1e-2)
            assert same["alike"] == 1
            assert drawn["mean"] < 0.7
            assert drawn["effective_rank"] > 3
            # Experts that were never trained are random ones.
            assert summarise(one.random[kernel])["mean"] == pytest.approx(drawn["mean"], abs=0.1)
            # The references know nothing of the copying.
            assert summarise(other.random[kernel])["mean"] < 0.7
            assert abs(summarise(other.shuffled[kernel])["mean"]) < 0.05


def test_a_layer_is_compared_by_the_outputs_of_its_experts():
    """From the recorded hidden states and the weight matrices, in other words."""
    model = make_model("qwen3_moe")
    found = expert_similarity(model, TEXTS, 100, seed=5)
    assert [layer.layer for layer in found.layers] == [0, 2]
    assert (found.tokens, found.texts, found.experts) == (100, 60, EXPERTS)
    from dsmoe_eval.experts import record_tokens, sample_tokens

    places = sample_tokens(TEXTS, 100, 5)
    for tokens, layer in zip(record_tokens(model, TEXTS, places), found.layers, strict=True):
        weights = tokens.router.consumer
        with torch.no_grad():
            both = torch.einsum("th,eih->eti", tokens.hidden, weights.gate_up_proj)
            gate, up = both.chunk(2, -1)
            outputs = torch.einsum(
                "eti,ehi->eth", torch.nn.functional.silu(gate) * up, weights.down_proj
            )
        for kernel in KERNELS:
            for i, j in ((0, 1), (2, 7), (5, 3)):
                expected = cka(outputs[i], outputs[j], kernel)
                assert layer.experts[kernel][i, j] == pytest.approx(expected, abs=1e-4)
        counts = torch.bincount(tokens.indices.flatten(), minlength=EXPERTS) / 100
        np.testing.assert_allclose(layer.used, counts, atol=1e-6)


def test_figures_are_the_same_each_time_and_are_json():
    model = make_model("mixtral")
    steps = []
    one = expert_similarity(model, TEXTS, 50, on_layer=steps.append).to_dict()
    assert one == expert_similarity(model, TEXTS, 50).to_dict()
    assert one != expert_similarity(model, TEXTS, 50, seed=1).to_dict()
    assert json.loads(json.dumps(one, allow_nan=False))["layers"][2]["layer"] == 2
    assert steps == [1, 1, 1]


def test_a_dead_expert_is_named():
    model = make_model("olmoe")
    find_routers(model)[1].consumer.down_proj.data[6] = 0
    with pytest.raises(SteeringError, match="layer 1, expert 6: all rows are the same"):
        expert_similarity(model, TEXTS, 50)
