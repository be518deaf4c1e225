"""Distillation brings a carved model nearer to its dense model, also if it is stopped."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab import distillation
from dsmoe_eval.lab.carving import CarvedLayer
from dsmoe_eval.lab.distillation import DistilledModel, batch_of, resume
from dsmoe_eval.lab.masked_moe import make_trainable

from .small_llama import RECIPE, SEQUENCES, SHAPE, dense, nothing


def begin():
    torch.manual_seed(0)
    model = dense()
    carved = [
        CarvedLayer(torch.randperm(SHAPE.neurons), 0.1 * torch.randn(8, 32)) for _ in range(2)
    ]
    return DistilledModel(model, make_trainable(model, carved, SHAPE, RECIPE.rank), RECIPE)


def test_training_brings_it_nearer_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "EVERY", 2)
    whole = begin()
    whole.run(SEQUENCES, tmp_path / "whole", "text", nothing)
    assert whole.log[-1].divergence < whole.log[0].divergence - 0.02
    assert 0.9 < whole.log[-1].balance < 1.5

    steps = iter(range(4))

    def stop(_count):
        if next(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin().run(SEQUENCES, tmp_path / "state", "text", stop)
    again = resume(dense(), RECIPE, SHAPE, tmp_path / "state", "text")
    assert again.done == 2
    again.run(SEQUENCES, tmp_path / "state", "text", nothing)
    assert again.log == whole.log
    one, two = (load_file(tmp_path / name) for name in ("whole", "state"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for changes, text in (({"steps": 7}, "text"), ({}, "other")):
        with pytest.raises(UserError, match="state: is of another training"):
            resume(dense(), dataclasses.replace(RECIPE, **changes), SHAPE, tmp_path / "state", text)


def test_every_sequence_is_seen_once_per_turn():
    rows = torch.cat([batch_of(SEQUENCES, RECIPE, step) for step in range(5)])
    places = [(row == SEQUENCES).all(1).nonzero()[0, 0].item() for row in rows]
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert places[:10] != places[10:]
