"""Which neurons are shared, which form an expert, and what a router starts as: against NumPy."""

import numpy as np
import torch

from dsmoe_eval.lab.carving import CarvedShape
from dsmoe_eval.lab.neurons import balanced_clusters, choose_carving, order_neurons

from .small_llama import SEQUENCES, SHAPE, dense, nothing


def test_clusters_of_equal_size_are_those_that_were_planted():
    rng = np.random.default_rng(0)
    planted = rng.permutation(np.repeat(np.arange(5), 6))
    points = np.eye(5)[planted] + 0.1 * rng.normal(size=(30, 5))
    for seed in range(3):
        members = balanced_clusters(points, 5, seed)
        assert np.bincount(members).tolist() == [6] * 5
    same = members[:, None] == members
    assert (same == (planted[:, None] == planted)).mean() > 0.9


def test_the_neurons_that_are_active_most_often_are_shared():
    shape = CarvedShape(neurons=6, shared=2, experts=2, active=1)
    active = np.array(
        [[1, 1, 0, 0, 0, 1], [1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1]]
    )
    order = order_neurons((active.T @ active).astype(float), shape, 0)
    assert order[:2].tolist() == [0, 5]
    assert {frozenset(order[2:4].tolist()), frozenset(order[4:].tolist())} == {
        frozenset({1, 4}),
        frozenset({2, 3}),
    }


@torch.no_grad()
def test_first_routers_are_the_ridge_regression_of_the_energies():
    model = dense()
    carved = choose_carving(model, [SEQUENCES[:5], SEQUENCES[5:]], SHAPE, 0, nothing)
    mlp, seen = model.model.layers[0].mlp, {}
    mlp.register_forward_pre_hook(lambda _m, given: seen.update(hidden=given[0]))
    model(SEQUENCES)
    hidden = seen["hidden"].flatten(0, 1).double().numpy()
    weights = {n: getattr(mlp, f"{n}_proj").weight.double().numpy() for n in ("gate", "up", "down")}
    gate = hidden @ weights["gate"].T
    neurons = gate / (1 + np.exp(-gate)) * (hidden @ weights["up"].T)
    order = carved[0].order.numpy()
    size = (neurons * np.linalg.norm(weights["down"], axis=0))[:, order][:, SHAPE.shared :]
    energy = np.sqrt((size.reshape(len(size), 8, 4) ** 2).sum(-1))
    energy = (energy - energy.mean(0)) / energy.std(0)
    ridge = 0.01 * np.mean(np.sum(hidden**2, 0)) * np.eye(32)
    expected = 0.1 * np.linalg.solve(hidden.T @ hidden + ridge, hidden.T @ energy).T
    np.testing.assert_allclose(carved[0].router.numpy(), expected, atol=1e-5)
    assert sorted(order.tolist()) == list(range(SHAPE.neurons))
