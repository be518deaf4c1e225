"""The algebra of the interventions, against plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsmoe_eval.steering import ChosenExpert, Intervention
from dsmoe_eval.steering.interventions import edit_logits, edit_weights, layer_effect

EXPERTS = 12
KINDS = ("reweight", "amplify", "bias", "force", "mask")
LOGITS = arrays(np.float64, (5, EXPERTS), elements=st.floats(-8, 8, width=32), unique=True)
CHOSEN = st.lists(st.integers(0, EXPERTS - 1), max_size=4, unique=True)


def effect_of(kind, chosen, strength, channel="logit", deactivated=()):
    experts = [ChosenExpert(layer=0, expert=e, score=1.0) for e in chosen]
    experts += [ChosenExpert(layer=0, expert=e, score=1.0, activate=False) for e in deactivated]
    intervention = Intervention(kind=kind, strength=strength, channel=channel)
    return layer_effect(intervention, experts, EXPERTS)


def top(logits, k):
    return np.argsort(-logits, axis=-1, kind="stable")[:, :k]


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def edited(logits, effect):
    return edit_logits(torch.tensor(logits), effect).numpy()


@given(LOGITS, CHOSEN, st.floats(0, 50), st.integers(1, 6), st.booleans(), st.booleans())
def test_reweight_is_eq_11_with_the_former_sum_and_amplify_restores_nothing(
    logits, chosen, strength, k, renormalised, restored
):
    indices = top(logits, k)
    weights = np.take_along_axis(softmax(logits), indices, -1)
    if renormalised:
        weights = weights / weights.sum(-1, keepdims=True)
    effect = effect_of("reweight" if restored else "amplify", chosen, strength)
    got = edit_weights(torch.tensor(weights), torch.tensor(indices), effect).numpy()

    expected = weights * np.where(np.isin(indices, chosen), 1 + strength, 1.0)
    if restored:
        expected *= weights.sum(-1, keepdims=True) / expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-12)
    assert np.array_equal(edited(logits, effect), logits)


@given(LOGITS, CHOSEN, st.floats(0.001, 50), st.integers(1, 6))
def test_reweight_of_a_renormalising_router_is_a_shift_of_selected_logits(
    logits, chosen, strength, k
):
    """The identity of the methods note: Eq. 11 equals z_j + log(alpha) for j in E* and TopK(z)."""
    indices = top(logits, k)
    weights = softmax(np.take_along_axis(logits, indices, -1))
    effect = effect_of("reweight", chosen, strength)
    got = edit_weights(torch.tensor(weights), torch.tensor(indices), effect).numpy()

    shifted = np.take_along_axis(logits, indices, -1)
    shifted = shifted + np.where(np.isin(indices, chosen), np.log1p(strength), 0.0)
    np.testing.assert_allclose(got, softmax(shifted), rtol=2e-5, atol=1e-12)


@given(LOGITS, CHOSEN, st.floats(0, 50))
def test_bias_adds_log_of_one_plus_strength_to_chosen_logits_only(logits, chosen, strength):
    effect = effect_of("bias", chosen, strength)
    expected = logits.copy()
    expected[:, chosen] += np.log1p(strength)
    np.testing.assert_allclose(edited(logits, effect), expected, rtol=1e-6, atol=1e-5)
    assert effect.weight_factor is None
    assert effect.choice_shift is None


@given(LOGITS, st.lists(st.floats(-5, 5), min_size=EXPERTS, max_size=EXPERTS), st.floats(0, 3))
def test_bias_by_scores_adds_strength_times_the_score_of_each_expert(logits, scores, strength):
    chosen = [ChosenExpert(layer=0, expert=e, score=score) for e, score in enumerate(scores) if e]
    intervention = Intervention(kind="bias", strength=strength, unit="scores")
    effect = layer_effect(intervention, chosen, EXPERTS)
    expected = logits.copy()
    for expert in range(1, EXPERTS):
        expected[:, expert] += strength * scores[expert]
    np.testing.assert_allclose(edited(logits, effect), expected, rtol=1e-5, atol=1e-5)


@given(CHOSEN, st.floats(0, 50))
def test_bias_in_the_score_channel_adds_strength_to_the_correction_bias_only(chosen, strength):
    effect = effect_of("bias", chosen, strength, channel="score")
    expected = np.zeros(EXPERTS, dtype=np.float32)
    expected[chosen] = strength
    np.testing.assert_allclose(effect.choice_shift.numpy(), expected, rtol=1e-6)
    assert effect.logit_shift is None
    assert effect.weight_factor is None


@given(LOGITS, CHOSEN, st.floats(0.01, 5), st.data())
def test_force_is_steermoe_up_to_the_constant_that_softmax_cannot_see(logits, chosen, margin, data):
    others = sorted(set(range(EXPERTS)) - set(chosen))
    out = data.draw(st.lists(st.sampled_from(others), max_size=3, unique=True))
    s = np.log(softmax(logits))
    expected = s.copy()
    expected[:, chosen] = s.max(-1, keepdims=True) + margin
    expected[:, out] = s.min(-1, keepdims=True) - margin
    got = edited(logits, effect_of("force", chosen, margin, deactivated=out))
    np.testing.assert_allclose(softmax(got), softmax(expected), rtol=1e-4, atol=1e-9)
    selected = top(got, max(1, len(chosen)))
    assert set(chosen) <= set(selected[0])
    assert not set(out) & set(selected.flatten())


@given(LOGITS, CHOSEN.filter(len), st.integers(1, 6))
def test_a_masked_expert_is_never_selected_and_the_rest_is_as_if_it_were_not_there(
    logits, chosen, k
):
    got = edited(logits, effect_of("mask", chosen, 1))
    indices = top(got, k)
    assert not np.isin(indices, chosen).any()
    kept = [e for e in range(EXPERTS) if e not in chosen]
    np.testing.assert_allclose(softmax(got)[:, kept], softmax(logits[:, kept]), rtol=1e-5)
    assert torch.isneginf(effect_of("mask", chosen, 1).choice_shift[chosen]).all()


@given(LOGITS, CHOSEN, st.integers(1, 6), st.sampled_from(KINDS))
def test_strength_zero_changes_no_bit(logits, chosen, k, kind):
    effect = effect_of(kind, chosen, 0.0)
    z = torch.tensor(logits, dtype=torch.float32)
    assert torch.equal(edit_logits(z, effect), z)
    weights, indices = z.softmax(-1).topk(k)
    assert torch.equal(edit_weights(weights, indices, effect), weights)
    assert effect.choice_shift is None


@given(LOGITS, st.sampled_from(KINDS))
def test_no_experts_change_no_bit(logits, kind):
    effect = effect_of(kind, [], 1)
    z = torch.tensor(logits, dtype=torch.float32)
    assert torch.equal(edit_logits(z, effect), z)
    weights, indices = z.softmax(-1).topk(3)
    assert torch.equal(edit_weights(weights, indices, effect), weights)


@given(LOGITS, CHOSEN, st.floats(0, 20), st.floats(0, 20))
def test_biases_add_up_in_the_logarithm(logits, chosen, one, two):
    """log(1 + a) + log(1 + b) = log(1 + a + b + ab)."""
    both = edited(edited(logits, effect_of("bias", chosen, one)), effect_of("bias", chosen, two))
    once = edited(logits, effect_of("bias", chosen, one + two + one * two))
    np.testing.assert_allclose(both, once, rtol=1e-5, atol=1e-5)


def test_a_bfloat16_router_keeps_a_small_shift():
    """At z = 4 bfloat16 steps are 1/32: the sum is rounded once, after a float32 addition."""
    z = torch.full((1, EXPERTS), 4.0, dtype=torch.bfloat16)
    got = edit_logits(z, effect_of("bias", [0], 0.1))
    assert got.dtype == torch.bfloat16
    assert float(got[0, 0]) == float(torch.tensor(4.0 + np.log(1.1)).bfloat16())


@pytest.mark.parametrize("height", [0.0, 4.0, 300.0, -300.0])
def test_a_forced_bfloat16_logit_stays_above_the_rest_where_the_margin_would_be_rounded_off(height):
    z = (torch.randn(50, EXPERTS) + height).to(torch.bfloat16)
    got = edit_logits(z, effect_of("force", [3], 0.01, deactivated=[5]))
    others = torch.cat([got[:, :3], got[:, 4:]], -1)
    assert (got[:, 3] > others.amax(-1)).all()
    rest = torch.cat([got[:, :5], got[:, 6:]], -1)
    assert (got[:, 5] < rest.amin(-1)).all()
