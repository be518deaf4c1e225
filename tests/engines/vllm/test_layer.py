"""The edits without branches against those of `steering.interventions`."""

import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from dsmoe_eval.engines.vllm.layer import read_scoring, steer_logits, steer_weights
from dsmoe_eval.engines.vllm.reach import check_compiled, check_reached
from dsmoe_eval.steering import SteeringError
from dsmoe_eval.steering.interventions import LayerEffect, edit_logits, edit_weights
from dsmoe_eval.steering.scoring import Groups

pytestmark = pytest.mark.vllm

TOKENS, EXPERTS, TOP_K, PROFILES = 50, 16, 4, 5
GENERATOR = torch.Generator().manual_seed(0)
ZEROS, ONES = torch.zeros(EXPERTS), torch.ones(EXPERTS)
ROWS = torch.randint(PROFILES, (TOKENS,), generator=GENERATOR)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def _random(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def _check_rows(steered, edited):
    """Each row of a profile is the definition's; those of profile 0 are unchanged."""
    for profile in range(PROFILES):
        mine = profile == ROWS
        assert torch.equal(steered[mine], edited(profile)[mine])


@DTYPES
def test_logits(dtype):
    logits, shift = _random(TOKENS, EXPERTS).to(dtype), _random(PROFILES, EXPERTS)
    shift[1, 3], shift[0] = -math.inf, 0
    none, no_margin = torch.zeros(PROFILES, EXPERTS), torch.zeros(PROFILES, 1)
    forced = torch.sign(_random(PROFILES, EXPERTS)) * (_random(PROFILES, EXPERTS) > 0)
    margin = torch.arange(PROFILES)[:, None] / 4
    forced[0] = 0
    _check_rows(
        steer_logits(logits, ROWS, shift, none, no_margin),
        lambda row: edit_logits(logits, LayerEffect(logit_shift=shift[row])) if row else logits,
    )
    _check_rows(
        steer_logits(logits, ROWS, none, forced, margin),
        lambda row: edit_logits(
            logits, LayerEffect(forced=forced[row], force_margin=float(margin[row]))
        ) if row else logits,
    )  # fmt: skip


@DTYPES
def test_weights(dtype):
    weights, indices = _random(TOKENS, EXPERTS).softmax(-1).to(dtype).topk(TOP_K)
    factor, keep_sum = 1 + _random(PROFILES, EXPERTS).abs(), torch.arange(PROFILES)[:, None] > 2
    factor[0] = 1
    narrow = indices.int()  # as vLLM's routers give them
    _check_rows(
        steer_weights(weights, narrow, ROWS, factor, keep_sum),
        lambda row: edit_weights(
            weights, indices, LayerEffect(weight_factor=factor[row], keep_sum=bool(keep_sum[row]))
        ) if row else weights,
    )  # fmt: skip


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
    check_reached(_layer(), shifted)
    check_reached(_layer(is_monolithic=False), LayerEffect(weight_factor=ONES))
    for layer, effect in (
        (_layer(), LayerEffect(weight_factor=ONES)),
        (_layer(correction_bias=ZEROS), shifted),
    ):
        with pytest.raises(SteeringError, match="selects the experts inside its kernel"):
            check_reached(layer, effect)
    check_compiled(_layer())
    with pytest.raises(SteeringError, match="has run without its edits"):
        check_compiled(_layer(dsmoe_calls=torch.tensor(0)))


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
