"""Sums of the residual stream, from forward passes whose content is known; vLLM is not needed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dsmoe_eval.engines.vllm.streams import StreamSums, read_sums
from dsmoe_eval.steering import SteeringError

WIDTH = 3


class Whole(nn.Module):
    """A layer that returns the stream."""

    def forward(self, hidden):
        return hidden + 1


class Halves(nn.Module):
    """A layer that returns what it adds, and the stream before it."""

    def forward(self, hidden):
        return 2 * hidden, hidden


class Passes:
    """A model runner of vLLM and its forward passes: buffers that are longer than their content."""

    def __init__(self):
        self.layers = nn.ModuleList([Whole(), Halves()])
        self.runner = SimpleNamespace(
            _prepare_inputs=None,
            input_batch=SimpleNamespace(req_ids=["0"]),
            query_start_loc=SimpleNamespace(np=np.zeros(4, dtype=np.int32)),
            positions=torch.full((16,), 99),
            input_ids=SimpleNamespace(gpu=torch.zeros(16, dtype=torch.int32)),
        )

    def __call__(self, states, positions):
        self.runner.query_start_loc.np[1] = len(positions)
        self.runner.positions[: len(positions)] = torch.tensor(positions)
        for layer in self.layers:
            layer(states)


@pytest.fixture
def passes():
    return Passes()


def test_sums_are_of_the_tokens_that_are_kept_by_domain(passes):
    states = torch.arange(15, dtype=torch.float32).view(5, WIDTH)
    sums = StreamSums(passes.runner, passes.layers, (2, WIDTH))
    sums.begin(1, [False, True, True])
    passes(states[:2], [0, 1])  # a prompt in chunks
    passes(states[2:4], [2, 3])  # and a token that follows it
    sums.begin(0, [True])
    passes(states[4:], [0])
    found = read_sums(sums.finish())
    first, second = states[1:3].sum(0), states[4]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found[1].float(), torch.stack([first + 2, 3 * first]))
    torch.testing.assert_close(found[0].float(), torch.stack([second + 1, 3 * second]))
    assert not any(layer._forward_hooks for layer in passes.layers)


@pytest.mark.parametrize("positions", [[0], [0, 0], [0, 1, 1]])
def test_a_token_that_was_not_seen_once_is_an_error(passes, positions):
    sums = StreamSums(passes.runner, passes.layers, (1, WIDTH))
    sums.begin(0, [True, True])
    passes(torch.ones(len(positions), WIDTH), positions)
    with pytest.raises(SteeringError, match="of each token once in each layer"):
        sums.begin(0, [True])
    with pytest.raises(SteeringError, match="of each token once in each layer"):
        sums.finish()
    assert not any(layer._forward_hooks for layer in passes.layers)
