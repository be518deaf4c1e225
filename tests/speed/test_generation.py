"""The benchmark of generation runs, and counts what it says."""

from pathlib import Path

import pytest
import torch

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed"
SMALL = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 512}


@pytest.fixture
def generation(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import generation

    monkeypatch.setattr(generation, "QUIZ_MODEL", generation.QUIZ_MODEL | SMALL)
    monkeypatch.setattr(generation.models, "machine", lambda *_: (2.0, 4.0))
    return generation


@pytest.fixture
def settings(generation):
    return generation.Settings("cpu", 2, 3, 5, (1, 4))


def test_all_rows_are_there_and_the_answers_agree(generation, settings):
    (subject,) = generation.subjects((), settings)
    rows = list(generation.against_hf(subject, settings))
    assert [row.name for row in rows] == ["1 x 3", "4 x 3", "4, stop string", "own, stop string"]
    assert [row.same for row in rows] == ["2 of 2", *["4 of 4"] * 3]
    assert all(row.ratio.median > 0 and row.over_floor.median > 0 for row in rows)
    (header,) = generation.behind_a_header(subject, settings)
    assert header.same == "4 of 4"
    assert str(header).count("|") == generation.HEAD.splitlines()[0].count("|")


def test_copies_are_numbers_that_python_reads_and_tensors(generation):
    counter, numbers = generation.Copies(), torch.arange(3)
    with counter.counting():
        assert bool(numbers.sum() == 3)
        assert numbers.tolist() == numbers.cpu().numpy().tolist() == [0, 1, 2]
        numbers + 1
    assert (counter.scalars, counter.tensors) == (1, 3)
    numbers.tolist()
    assert counter.tensors == 3


def test_the_floor_is_the_prompts_arithmetic_and_what_steps_read(generation, settings):
    """Of one row: each step reads the active weights, and the cache so far."""
    (subject,) = generation.subjects((), settings)
    model, size = subject.loaded.model, subject.size
    cached = 2 * 4 * model.config.hidden_size  # keys and values of one layer in float32
    weights = sum(one.numel() for one in model.parameters()) - model.lm_head.weight.numel()
    experts = sum(one.numel() for one in model.model.layers[0].mlp.experts.parameters())
    active = weights - experts * 28 // 32
    read = 2 * 4 * active + cached * (5 + 6)
    flop = 2 * (5 * (active - size.head) + size.head)
    assert subject.floor(1, 5, [2]) == pytest.approx(flop / 2e9 + read / 4e9)


def test_the_stop_string_ends_answers_near_their_half(generation):
    assert generation.a_stop(["a b c d e f", "g h c i j k"]) == "c"
