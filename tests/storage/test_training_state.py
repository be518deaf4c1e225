"""A training's file: what it holds, and that Adam goes on from it as an Adam of the test's own."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from dsmoe_eval.errors import UserError
from dsmoe_eval.storage.training_state import (
    adam_moments,
    read_training_state,
    restore_moments,
    write_training_state,
)

KEY, BETAS, RATE = "{name}.{moment}", (0.9, 0.98), 0.01
SLOPES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def new(start):
    parameter = nn.Parameter(start.clone())
    return parameter, torch.optim.AdamW([parameter], lr=RATE, betas=BETAS, weight_decay=0.0)


def go(parameter, optimizer, steps):
    for step in steps:
        parameter.grad = SLOPES[step].clone()
        optimizer.step()


def by_hand(start, steps):
    """Adam's update by its formula (Kingma and Ba 2015, algorithm 1)."""
    value, mean, square = start.numpy().copy(), np.zeros(5), np.zeros(5)
    for at in range(steps):
        slope = SLOPES[at].numpy()
        mean = BETAS[0] * mean + (1 - BETAS[0]) * slope
        square = BETAS[1] * square + (1 - BETAS[1]) * slope**2
        unbiased = mean / (1 - BETAS[0] ** (at + 1)), square / (1 - BETAS[1] ** (at + 1))
        value -= RATE * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return value, mean, square


def test_adam_goes_on_from_the_file_as_by_its_formula(tmp_path):
    start, path = torch.ones(5, dtype=torch.float64), tmp_path / "state.safetensors"
    parameter, optimizer = new(start)
    go(parameter, optimizer, range(4))
    moments = adam_moments(optimizer, [("w", parameter)], KEY)
    write_training_state(path, {"w": parameter, **moments}, {"done": 4, "text": "a"})
    with safe_open(path, framework="np") as opened:
        assert sorted(opened.keys()) == ["w", "w.mean", "w.square"]
        assert json.loads(opened.metadata()["training"]) == {"done": 4, "text": "a"}
        value, mean, square = by_hand(start, 4)
        np.testing.assert_allclose(opened.get_tensor("w"), value)
        np.testing.assert_allclose(opened.get_tensor("w.mean"), mean)
        np.testing.assert_allclose(opened.get_tensor("w.square"), square)

    tensors, about = read_training_state(path, {"text": "a"}, "delete it")
    again, resumed = new(tensors["w"])
    restore_moments(resumed, [("w", again)], KEY, tensors, about["done"])
    go(again, resumed, range(4, 6))
    go(parameter, optimizer, range(4, 6))
    assert torch.equal(again, parameter)
    np.testing.assert_allclose(again.detach(), by_hand(start, 6)[0])


def test_the_state_of_another_training_is_refused(tmp_path):
    write_training_state(tmp_path / "state", {"w": torch.ones(1)}, {"text": "a"})
    with pytest.raises(UserError, match=r"state: is of another training [(]text a, now b[)]; go"):
        read_training_state(tmp_path / "state", {"text": "b"}, "go away")
