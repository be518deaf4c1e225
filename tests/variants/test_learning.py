"""Learned shifts: gradients, sums, reproducibility, and what is kept."""

import pytest
import torch

from dsmoe_eval.cards import Learned
from dsmoe_eval.experts import OutcomeItem, PlainText, ScoredText, ShiftObjective
from dsmoe_eval.experts.batching import frozen
from dsmoe_eval.experts.tensor_files import read_tensors
from dsmoe_eval.steering import find_routers, shifted_routers, steer
from dsmoe_eval.variants import build_learned_profile, get_variant
from dsmoe_eval.variants.learning import (
    Lesson,
    batch_at,
    largest,
    learn_shifts,
    project,
    read_learned,
    write_learned,
)

from ..conftest import make_model, profile_of

SETTINGS = Learned(steps=8, learning_rate=0.3, batch_size=2, weight=0.5, check_every=2)


def question(seed, right=0):
    """Three options of two tokens after a question of four."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.randint(2, 28, (4,), generator=draw).tolist()
    ends = torch.randint(2, 28, (3, 2), generator=draw).tolist()
    return OutcomeItem("law", tuple(ScoredText((*start, *end), 4) for end in ends), (right,))


def text(seed):
    return PlainText(tuple(torch.randint(2, 28, (6,), generator=torch.manual_seed(seed)).tolist()))


@pytest.fixture(scope="module")
def model():
    model = make_model("qwen3_moe")
    with torch.no_grad():  # as it is initialised, hardly anything comes from the experts
        model.lm_head.weight.mul_(10)
        for name, weight in model.named_parameters():
            if "experts" in name:
                weight.mul_(8)
    with frozen(model):
        yield model


@pytest.fixture(scope="module")
def objective(model):
    return ShiftObjective(model)


@pytest.fixture(scope="module")
def lesson():
    items = tuple(question(seed, seed % 3) for seed in range(4))
    texts = tuple(text(seed) for seed in range(3))
    return Lesson(items, texts[:2], items[:2], texts[2:])


def learned(objective, lesson, folder, name="state.safetensors", **changes):
    settings = SETTINGS.model_copy(update=changes)
    sigmas = [0.5, 0.4, 0.6, 0.7][: objective.shape[0]]
    return learn_shifts(objective, lesson, sigmas, settings, 0, folder / name)


def likelihood(model, one):
    ids = torch.tensor([one.tokens])
    values = model(ids).logits[0, one.start - 1 : -1].log_softmax(-1)
    return values.gather(1, ids[0, one.start :, None]).sum()


def steered(model, shift):
    """The model under the profile that a run writes, by the hooks of steering."""
    identity = profile_of(model).model
    source = profile_of(model).source
    return steer(
        model, build_learned_profile(get_variant("learned-profile"), identity, shift, source)
    )


def test_the_objective_is_that_of_the_profile_it_becomes(model, objective, lesson):
    """Outcome and divergence, by plain passes of the steered model."""
    shift = project(torch.randn(objective.shape, dtype=torch.float64), torch.ones(objective.shape))
    with torch.no_grad():
        base = [model(torch.tensor([one.tokens])).logits[0].log_softmax(-1) for one in lesson.texts]
    with torch.no_grad(), steered(model, shift.float()):
        values = [torch.stack([likelihood(model, t) for t in one.texts]) for one in lesson.items]
        after = [
            model(torch.tensor([one.tokens])).logits[0].log_softmax(-1) for one in lesson.texts
        ]
    outcome = torch.stack(
        [v.log_softmax(0)[one.rights[0]] for v, one in zip(values, lesson.items, strict=True)]
    ).mean()
    far = torch.cat([(b.exp() * (b - a)).sum(-1) for b, a in zip(base, after, strict=True)])
    assert objective.outcome(lesson.items, shift)[0] == pytest.approx(float(outcome), rel=1e-4)
    assert objective.divergence(lesson.texts, shift)[0] == pytest.approx(
        float(far.mean()), rel=1e-3
    )


@pytest.mark.parametrize("part", ["outcome", "divergence"])
def test_gradients_are_those_of_finite_differences(objective, lesson, part):
    """Along a line so short that no token selects other experts."""
    draw = torch.Generator().manual_seed(5)
    at = 0.2 * torch.randn(objective.shape, dtype=torch.float64, generator=draw)
    given = lesson.items if part == "outcome" else lesson.texts
    measure = getattr(objective, part)
    gradient = measure(given, at)[1]
    for _ in range(3):
        along = torch.randn(objective.shape, dtype=torch.float64, generator=draw)
        step = 2e-3
        slope = (measure(given, at + step * along)[0] - measure(given, at - step * along)[0]) / (
            2 * step
        )
        assert float((gradient * along).sum()) == pytest.approx(slope, rel=2e-2, abs=2e-5)


def test_there_is_no_divergence_without_a_shift(objective, lesson):
    value, gradient = objective.divergence(lesson.texts, torch.zeros(objective.shape))
    assert value == pytest.approx(0, abs=1e-9)
    assert float(gradient.abs().max()) < 1e-6


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
    write_learned(tmp_path / "a", one)
    write_learned(tmp_path / "b", two)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    again = read_learned(tmp_path / "a")
    assert torch.equal(again.shift, one.shift)
    assert again.history == one.history


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
    found = learned(objective, lesson, tmp_path, weight=1e9)
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


def test_a_profile_shifts_every_expert_by_another_amount(model, objective):
    """Hooks against the same shifts in the routers' code, token by token."""
    shift = torch.randn(objective.shape)
    ids = torch.tensor([[3, 9, 4, 12]])
    with torch.no_grad(), steered(model, shift):
        hooked = model(ids).logits
    with torch.no_grad(), shifted_routers(find_routers(model), shift[None]):
        torch.testing.assert_close(hooked, model(ids).logits, rtol=1e-5, atol=1e-6)
