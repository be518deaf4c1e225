"""Learned shifts: sums, reproducibility, what is kept, and going on after a stop."""

import pytest
import torch
from pydantic import ValidationError

from dsmoe_eval.cards import Learned
from dsmoe_eval.experts import ShiftObjective
from dsmoe_eval.experts.batching import frozen
from dsmoe_eval.experts.tensor_files import read_tensors
from dsmoe_eval.variants.learning import (
    LearnedShifts,
    Lesson,
    Look,
    batch_at,
    choose_weight,
    largest,
    learn_shifts,
    project,
    read_learned,
    write_learned,
)

from ..experts.shifting import QUESTIONS, TEXTS, felt_model

SETTINGS = Learned(steps=8, learning_rate=0.3, batch_size=2, weight=0.5, check_every=2)


@pytest.fixture(scope="module")
def objective():
    model = felt_model()
    with frozen(model):
        yield ShiftObjective(model)


@pytest.fixture(scope="module")
def lesson():
    return Lesson(QUESTIONS, TEXTS[:2], QUESTIONS[:2], TEXTS[2:])


def learned(objective, lesson, folder, name="state.safetensors", **changes):
    settings = SETTINGS.model_copy(update=changes)
    sigmas = [0.5, 0.4, 0.6, 0.7][: objective.shape[0]]
    return learn_shifts(objective, lesson, sigmas, settings, 0, folder / name)


def test_it_gains_and_is_centred_and_the_same_again(objective, lesson, tmp_path):
    one = learned(objective, lesson, tmp_path, "a.safetensors")
    two = learned(objective, lesson, tmp_path, "b.safetensors")
    assert one.best.step > 0
    assert one.best.value > one.history[0].value
    assert float(one.shift.sum(1).abs().max()) < 1e-6
    assert torch.equal(one.shift, two.shift)
    assert one.history == two.history
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    other = LearnedShifts(-one.shift, one.history[:1], 7.0)
    write_learned(tmp_path / "a", [other, one], one)
    write_learned(tmp_path / "b", [other, two], two)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    again = read_learned(tmp_path / "a")
    assert torch.equal(again.shift, one.shift)
    assert (again.history, again.weight) == (one.history, 0.5)


def tried(weight, gain, divergence):
    looks = (Look(0, -2.0, 0.0, -2.0), Look(10, -2.0 + gain, divergence, 0.0))
    return LearnedShifts(torch.zeros(1, 2), looks, weight)


def test_the_largest_gain_within_the_bound_chooses_the_weight():
    light, middle, heavy = tried(5, 0.6, 0.02), tried(20, 0.5, 0.008), tried(50, 0.4, 0.003)
    every = [light, middle, heavy]
    assert choose_weight(every, 0.03) is light
    assert choose_weight(every, 0.01) is middle
    assert choose_weight(every, 0.008) is middle
    assert choose_weight(every, 0.005) is heavy
    assert choose_weight(every, 0.001) is heavy  # none qualifies
    assert choose_weight([light], 0.001) is light
    assert choose_weight([tried(5, 0.4, 0.001), heavy], 0.005) is heavy
    assert [one.gain for one in every] == pytest.approx([0.6, 0.5, 0.4])


def test_a_number_is_a_list_of_one_weight():
    assert Learned(weight=5).weights == Learned(weights=[5]).weights == (5.0,)
    assert Learned().weight == 20.0
    assert [one.weight for one in Learned(weights=(3, 4)).each()] == [3, 4]
    for wrong in ({"weight": 1, "weights": [2]}, {"weights": [2, 2]}, {"weights": []}):
        with pytest.raises(ValidationError):
            Learned(**wrong)


def test_interrupted_learning_goes_on_as_if_nothing_had_happened(
    objective, lesson, tmp_path, monkeypatch
):
    whole = learned(objective, lesson, tmp_path, "whole.safetensors", most_experts=5)
    count, outcome = [0], objective.outcome

    def killed(*given):
        count[0] += 1
        if count[0] > 7:
            raise KeyboardInterrupt
        return outcome(*given)

    monkeypatch.setattr(objective, "outcome", killed)
    with pytest.raises(KeyboardInterrupt):
        learned(objective, lesson, tmp_path, most_experts=5)
    monkeypatch.undo()
    assert 0 < int(read_tensors(tmp_path / "state.safetensors")["step"]) < SETTINGS.steps
    rest = learned(objective, lesson, tmp_path, most_experts=5)
    assert torch.equal(rest.shift, whole.shift)
    assert rest.history == whole.history


def test_at_most_so_many_experts_are_shifted(objective, lesson, tmp_path):
    found = learned(objective, lesson, tmp_path, most_experts=5)
    assert 2 <= int((found.shift != 0).sum()) <= 5
    assert float(found.shift.sum(1).abs().max()) < 1e-6
    assert {one.step for one in found.history} == {0, 4, 6, 8}


def test_no_shift_is_kept_where_none_is_better(objective, lesson, tmp_path):
    found = learned(objective, lesson, tmp_path, weights=(1e9,))
    assert found.best.step == 0
    assert not found.shift.any()


def test_projection_and_choice_by_brute_force():
    values = torch.tensor([[3.0, -1.0, 2.0], [5.0, 0.5, 0.25]], dtype=torch.float64)
    kept = largest(values, 3)
    assert kept.tolist() == [[True, False, True], [True, False, False]]
    assert project(values, kept).tolist() == [[0.5, 0.0, -0.5], [0.0, 0.0, 0.0]]
    assert project(values, torch.ones_like(kept)).sum(1).tolist() == pytest.approx([0, 0])


def test_batches_use_every_item_before_any_again():
    rows = [row for step in range(3) for row in batch_at(6, 4, step, 1)]
    assert sorted(rows[:6]) == sorted(rows[6:]) == list(range(6))
    assert rows[:6] != rows[6:]
    assert batch_at(3, 40, 0, 1) == batch_at(3, 3, 0, 1)
    assert rows != [row for step in range(3) for row in batch_at(6, 4, step, 2)]
