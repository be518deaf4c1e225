"""The edits without branches against those of `steering.interventions`."""

import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from dsmoe_eval.engines.vllm.layer import read_scoring, steer_logits, steer_weights
from dsmoe_eval.engines.vllm.worker import _check_reached
from dsmoe_eval.steering import SteeringError
from dsmoe_eval.steering.interventions import LayerEffect, edit_logits, edit_weights
from dsmoe_eval.steering.scoring import Groups

pytestmark = pytest.mark.vllm

TOKENS, EXPERTS, TOP_K = 50, 16, 4
GENERATOR = torch.Generator().manual_seed(0)
ZEROS, ONES = torch.zeros(EXPERTS), torch.ones(EXPERTS)
NO_MARGIN, YES, NO = torch.tensor(0.0), torch.tensor(True), torch.tensor(False)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def _random(*shape):
    return torch.randn(*shape, generator=GENERATOR)


@DTYPES
def test_logits(dtype):
    logits, shift = _random(TOKENS, EXPERTS).to(dtype), _random(EXPERTS)
    shift[3] = -math.inf
    forced, margin = torch.sign(_random(EXPERTS)) * (_random(EXPERTS) > 0), torch.tensor(0.5)
    assert torch.equal(steer_logits(logits, ZEROS, ZEROS, NO_MARGIN), logits)
    assert torch.equal(
        steer_logits(logits, shift, ZEROS, NO_MARGIN),
        edit_logits(logits, LayerEffect(logit_shift=shift)),
    )
    assert torch.equal(
        steer_logits(logits, ZEROS, forced, margin),
        edit_logits(logits, LayerEffect(forced=forced, force_margin=0.5)),
    )


@DTYPES
def test_weights(dtype):
    weights, indices = _random(TOKENS, EXPERTS).softmax(-1).to(dtype).topk(TOP_K)
    factor = 1 + _random(EXPERTS).abs()
    narrow = indices.int()  # as vLLM's routers give them
    assert torch.equal(steer_weights(weights, narrow, ONES, NO), weights)
    for keep in (True, False):
        assert torch.equal(
            steer_weights(weights, narrow, factor, YES if keep else NO),
            edit_weights(weights, indices, LayerEffect(weight_factor=factor, keep_sum=keep)),
        )


def _layer(**changes):
    """A layer as far as the checks look; no kernel that selects by itself runs on CPUs."""
    state = {
        "dsmoe_calls": torch.tensor(1),
        "is_monolithic": True,
        "correction_bias": None,
        "routed_experts": SimpleNamespace(quant_method=object()),
    }
    return SimpleNamespace(**state | changes)


def test_what_a_kernel_would_not_see_is_refused():
    shifted = LayerEffect(logit_shift=ONES, choice_shift=ONES)
    _check_reached(_layer(), shifted)
    _check_reached(_layer(is_monolithic=False), LayerEffect(weight_factor=ONES))
    for layer, effect in (
        (_layer(), LayerEffect(weight_factor=ONES)),
        (_layer(correction_bias=ZEROS), shifted),
    ):
        with pytest.raises(SteeringError, match="selects the experts inside its kernel"):
            _check_reached(layer, effect)
    with pytest.raises(SteeringError, match="has run without its edits"):
        _check_reached(_layer(dsmoe_calls=torch.tensor(0)), shifted)


def test_unknown_routers_are_refused():
    with pytest.raises(SteeringError, match="routes it by SimpleNamespace"):
        read_scoring(_layer(router=SimpleNamespace()))


@pytest.mark.parametrize(
    ("bias", "kept", "groups"),
    [(None, 2, Groups(4, 2, by_best=True)), (ZEROS, 2, Groups(4, 2, by_best=False)),
     (ZEROS, 4, None)],
)  # fmt: skip
def test_case_08_groups_are_read_from_vllms_router(bias, kept, groups):
    settings = {
        "use_grouped_topk": True, "num_expert_group": 4, "topk_group": kept, "renormalize": True,
        "scoring_func": "sigmoid", "e_score_correction_bias": bias,
    }  # fmt: skip
    router = type("CPURouter", (SimpleNamespace,), {})(**settings)
    assert read_scoring(_layer(router=router, correction_bias=bias)).groups == groups
