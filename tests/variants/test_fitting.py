"""The training loop against Adam's closed form; what it takes is measured."""

import numpy as np
import pytest
import torch
from torch import nn

from dsmoe_eval.cards import Sft
from dsmoe_eval.variants.fitting import (
    Lessons,
    encode_pairs,
    fit,
    left_unchanged,
    metered,
    step_count,
)

from .test_sft import Letters

ROWS = (([2, 3, 4], 1), ([5, 6], 1), ([7, 8, 9, 10], 2))


def lessons(**changes):
    settings = {"learning_rate": 0.01, "epochs": 1, "batch_size": 1} | changes
    return Lessons(ROWS, Sft(**settings), 0)


def test_steps_and_tokens_are_those_of_all_epochs():
    assert step_count(3, lessons(epochs=5, batch_size=2).settings) == 10
    assert lessons(epochs=5, batch_size=2).steps == 10
    assert lessons(epochs=5).tokens == 5 * 9


def test_a_steady_gradient_moves_by_the_falling_rate():
    """Adam's step is the rate times the sign of a constant gradient: here 1, 2/3 and 1/3 of it."""
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    steps = []
    fit(lambda *_: weight[0] - 7 * weight[1], [weight], lessons(), lambda: steps.append(1))
    np.testing.assert_allclose(weight.detach(), [1 - 0.02, 1 + 0.02], atol=1e-6)
    assert len(steps) == 3


def test_only_the_answers_have_a_loss_and_each_row_is_read_once_an_epoch():
    weight, seen = nn.Parameter(torch.zeros(())), []

    def loss(ids, mask, labels):
        for row in range(len(ids)):
            kept = ids[row][mask[row].bool()].tolist()
            seen.append((kept, labels[row][: len(kept)].tolist()))
            assert not mask[row][len(kept) :].any()
        return weight * 1.0

    fit(loss, [weight], lessons(epochs=2, batch_size=2))
    expected = [(tokens, [-100] * start + tokens[start:]) for tokens, start in ROWS]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(epoch) == sorted(expected)


def test_pairs_end_with_the_end_of_text():
    assert encode_pairs(Letters(), [("ab", "c")]) == (([2, 3, 4, 1], 2),)


def test_what_is_trainable_is_restored():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval()
    model[0].requires_grad_(False)
    with left_unchanged(model):
        model.requires_grad_(True).train()
    assert [one.requires_grad for one in model.parameters()] == [False, False, True, True]
    assert not model.training


def test_the_peak_is_that_of_the_context():
    with metered(torch.device("cpu")) as before:
        pass
    with metered(torch.device("cpu")) as meter:
        torch.ones(60_000_000)  # 240 MB, freed at once
    if before.peak_bytes is None:
        pytest.skip("this system does not say it")
    assert 200e6 < meter.peak_bytes - before.peak_bytes < 300e6
    assert 0 < meter.seconds < 60
