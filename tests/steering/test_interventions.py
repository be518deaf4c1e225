"""The algebra of the interventions, against plain NumPy."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsmoe_eval.steering import Intervention
from dsmoe_eval.steering.interventions import layer_effect, reweight, shift_logits

EXPERTS = 12
LOGITS = arrays(np.float64, (5, EXPERTS), elements=st.floats(-8, 8), unique=True)
CHOSEN = st.lists(st.integers(0, EXPERTS - 1), max_size=4, unique=True).map(tuple)
CPU = torch.device("cpu")


def _top(logits: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-logits, axis=-1, kind="stable")[:, :k]


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@given(LOGITS, CHOSEN, st.floats(0, 50), st.integers(1, 6), st.booleans())
def test_reweight_is_eq_11_with_the_former_sum(logits, chosen, strength, k, renormalised):
    indices = _top(logits, k)
    weights = np.take_along_axis(_softmax(logits), indices, -1)
    if renormalised:
        weights = weights / weights.sum(-1, keepdims=True)
    effect = layer_effect(Intervention(kind="reweight", strength=strength), chosen, EXPERTS, CPU)
    got = reweight(torch.tensor(weights), torch.tensor(indices), effect.weight_factor).numpy()

    expected = weights * np.where(np.isin(indices, chosen), 1 + strength, 1.0)
    expected *= weights.sum(-1, keepdims=True) / expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-12)
    assert effect.logit_shift is None


@given(LOGITS, CHOSEN, st.floats(0.001, 50), st.integers(1, 6))
def test_reweight_of_a_renormalising_router_is_a_shift_of_selected_logits(
    logits, chosen, strength, k
):
    """The identity of the methods note: Eq. 11 equals z_j + log(alpha) for j in E* and TopK(z)."""
    indices = _top(logits, k)
    weights = _softmax(np.take_along_axis(logits, indices, -1))
    effect = layer_effect(Intervention(kind="reweight", strength=strength), chosen, EXPERTS, CPU)
    got = reweight(torch.tensor(weights), torch.tensor(indices), effect.weight_factor).numpy()

    shifted = np.take_along_axis(logits, indices, -1)
    shifted = shifted + np.where(np.isin(indices, chosen), np.log1p(strength), 0.0)
    np.testing.assert_allclose(got, _softmax(shifted), rtol=2e-5, atol=1e-12)


@given(LOGITS, CHOSEN, st.floats(0, 50))
def test_bias_adds_log_of_one_plus_strength_to_chosen_logits_only(logits, chosen, strength):
    effect = layer_effect(Intervention(kind="bias", strength=strength), chosen, EXPERTS, CPU)
    got = shift_logits(torch.tensor(logits), effect.logit_shift).numpy()
    expected = logits.copy()
    expected[:, list(chosen)] += np.log1p(strength)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)
    assert effect.weight_factor is None


@given(LOGITS, CHOSEN, st.integers(1, 6))
def test_strength_zero_changes_no_bit(logits, chosen, k):
    z = torch.tensor(logits, dtype=torch.float32)
    bias = layer_effect(Intervention(kind="bias", strength=0.0), chosen, EXPERTS, CPU)
    assert torch.equal(shift_logits(z, bias.logit_shift), z)
    weights, indices = z.softmax(-1).topk(k)
    scale = layer_effect(Intervention(kind="reweight", strength=0.0), chosen, EXPERTS, CPU)
    assert torch.equal(reweight(weights, indices, scale.weight_factor), weights)


def test_a_bfloat16_router_keeps_a_small_shift():
    """At z = 4 bfloat16 steps are 1/32: the sum is rounded once, after a float32 addition."""
    z = torch.full((1, EXPERTS), 4.0, dtype=torch.bfloat16)
    effect = layer_effect(Intervention(kind="bias", strength=0.1), (0,), EXPERTS, CPU)
    got = shift_logits(z, effect.logit_shift)
    assert got.dtype == torch.bfloat16
    assert float(got[0, 0]) == float(torch.tensor(4.0 + np.log(1.1)).bfloat16())
