"""Whole texts against each text alone, also where a model changes its logits after the head."""

import numpy as np
import pytest
import torch

from dsmoe_eval.engines.transformers.next_tokens import Tally
from dsmoe_eval.engines.transformers.whole_forward import (
    longest_first,
    plan_forwards,
    prepare_forwards,
    score_forwards,
)

from ...conftest import make_model
from .test_shared_prefix_forward import alone, draw_pairs


@torch.no_grad()
def whole(model, pairs):
    tally = Tally(len(pairs))
    batch = sorted(plan_forwards(pairs), key=longest_first)
    prepared = prepare_forwards(batch, model.device)
    tally.add(prepared.queries, score_forwards(model, prepared))
    return tally.done()


@pytest.mark.parametrize("headless", [False, True])
def test_a_batch_gives_what_each_text_gives_alone(headless, monkeypatch):
    model, pairs = make_model("olmoe"), draw_pairs()
    forward = type(model).forward

    def scaled(self, *args, **rest):
        output = forward(self, *args, **rest)
        output.logits = torch.tanh(output.logits / 3) * 7
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    expected = alone(model, pairs)
    if headless:
        monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    got = whole(model, pairs)
    np.testing.assert_allclose([a for a, _ in got], [a for a, _ in expected], atol=1e-4)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
