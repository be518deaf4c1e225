"""Outcomes and divergences under shifts, against plain passes of the steered model."""

import pytest
import torch

from dsmoe_eval.experts import ShiftObjective
from dsmoe_eval.experts.batching import frozen
from dsmoe_eval.steering import find_routers, shifted_routers

from .shifting import QUESTIONS, TEXTS, felt_model, steered


@pytest.fixture(scope="module")
def model():
    model = felt_model()
    with frozen(model):
        yield model


@pytest.fixture(scope="module")
def objective(model):
    return ShiftObjective(model)


def likelihood(model, one):
    ids = torch.tensor([one.tokens])
    values = model(ids).logits[0, one.start - 1 : -1].log_softmax(-1)
    return values.gather(1, ids[0, one.start :, None]).sum()


@torch.no_grad()
def next_tokens(model):
    return [model(torch.tensor([one.tokens])).logits[0].log_softmax(-1) for one in TEXTS]


def test_the_objective_is_that_of_the_profile_it_becomes(model, objective):
    shift = torch.randn(objective.shape, generator=torch.Generator().manual_seed(2))
    base = next_tokens(model)
    with torch.no_grad(), steered(model, shift):
        values = [torch.stack([likelihood(model, t) for t in one.texts]) for one in QUESTIONS]
        after = next_tokens(model)
    outcome = torch.stack(
        [v.log_softmax(0)[one.rights[0]] for v, one in zip(values, QUESTIONS, strict=True)]
    ).mean()
    far = torch.cat([(b.exp() * (b - a)).sum(-1) for b, a in zip(base, after, strict=True)])
    assert objective.outcome(QUESTIONS, shift)[0] == pytest.approx(float(outcome), rel=1e-4)
    assert objective.divergence(TEXTS, shift)[0] == pytest.approx(float(far.mean()), rel=1e-3)


@pytest.mark.parametrize("part", ["outcome", "divergence"])
def test_gradients_are_those_of_finite_differences(objective, part):
    """Along lines so short that no token selects other experts."""
    draw = torch.Generator().manual_seed(5)
    at = 0.2 * torch.randn(objective.shape, dtype=torch.float64, generator=draw)
    given = QUESTIONS if part == "outcome" else TEXTS
    measure, step = getattr(objective, part), 2e-3
    gradient = measure(given, at)[1]
    for _ in range(3):
        along = torch.randn(objective.shape, dtype=torch.float64, generator=draw)
        rise = measure(given, at + step * along)[0] - measure(given, at - step * along)[0]
        assert float((gradient * along).sum()) == pytest.approx(
            rise / (2 * step), rel=2e-2, abs=2e-5
        )


def test_a_constant_in_a_layer_changes_nothing(objective):
    shift = torch.randn(objective.shape, generator=torch.Generator().manual_seed(2))
    moved = shift + torch.arange(1, len(shift) + 1)[:, None]
    for part, given in (("outcome", QUESTIONS), ("divergence", TEXTS)):
        one, gradient = getattr(objective, part)(given, shift)
        assert getattr(objective, part)(given, moved)[0] == pytest.approx(one, rel=1e-4)
        assert float(gradient.sum(1).abs().max()) < 1e-3 * float(gradient.abs().max())


def test_there_is_no_divergence_without_a_shift(objective):
    value, gradient = objective.divergence(TEXTS, torch.zeros(objective.shape))
    assert value == pytest.approx(0, abs=1e-9)
    assert float(gradient.abs().max()) < 1e-6


def test_hooks_shift_every_expert_by_another_amount(model, objective):
    """The profile's hooks against the same shifts in the routers' code."""
    shift = torch.randn(objective.shape, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[3, 9, 4, 12]])
    with torch.no_grad():
        base = model(ids).logits
        with steered(model, shift):
            hooked = model(ids).logits
        with shifted_routers(find_routers(model), shift[None]):
            torch.testing.assert_close(hooked, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(hooked, base, atol=1e-2)
