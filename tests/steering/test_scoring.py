"""Routers are understood by trying them out; what a kind does not mean there is refused."""

from dataclasses import replace

import pytest
import torch

from dsmoe_eval.steering import (
    Scoring,
    SteeringError,
    capture_routing,
    describe_scoring,
    find_routers,
    steer,
)
from dsmoe_eval.steering.scoring import Groups, shifted_choice

SOFTMAX = Scoring("softmax", renormalised=True, correction_bias=False, shift_invariant=True)
CORRECTED = Scoring("softmax", renormalised=True, correction_bias=True, shift_invariant=True)
SIGMOID = Scoring("sigmoid", renormalised=True, correction_bias=True, shift_invariant=False)
RULES = {
    "qwen3_moe": SOFTMAX,
    "olmoe": Scoring("softmax", False, False, True),
    "qwen2_moe": Scoring("softmax", False, False, True),
    "mixtral": SOFTMAX,
    "gpt_oss": SOFTMAX,  # a softmax over the selected logits is a renormalised softmax
    "ernie4_5_moe": CORRECTED,
    "phimoe": Scoring("other", False, False, False),
}


def small(architecture, dtype=torch.float32, **settings):
    from transformers import AutoConfig

    from dsmoe_eval.models import miniature

    return miniature(AutoConfig.for_model(architecture, **settings), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", list(RULES))
def test_the_rules_of_known_routers(architecture, dtype):
    from ..conftest import make_model

    model = make_model(architecture).to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for router in find_routers(model):
        assert describe_scoring(router) == RULES[architecture]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_sigmoid_with_groups_and_correction_bias():
    model = small("deepseek_v3", n_routed_experts=32, n_group=4, topk_group=2)
    groups = Groups(count=4, kept=2, by_best=False)
    assert describe_scoring(find_routers(model)[0]) == replace(SIGMOID, groups=groups)


def test_a_training_router_is_described_as_in_use_and_stays_training():
    model = small("phimoe").train()
    router = find_routers(model)[0]
    assert describe_scoring(router) == RULES["phimoe"]
    assert router.module.training


def test_a_flat_router_and_a_bias_that_is_none_are_refused():
    model = small("qwen3_moe", num_experts_per_tok=2)
    router = find_routers(model)[0]
    with torch.no_grad():
        router.weight.zero_()
    with pytest.raises(SteeringError, match="same logits for every token"):
        describe_scoring(router)
    model = small("qwen3_moe", num_experts_per_tok=2)
    find_routers(model)[0].module.register_buffer("some_bias", torch.zeros(128))
    with pytest.raises(SteeringError, match="does not decide its choice"):
        describe_scoring(find_routers(model)[0])


@pytest.mark.parametrize("architecture", ["glm4_moe", "ernie4_5_moe"])
def test_the_score_channel_decides_where_a_logit_shift_saturates(architecture, make_profile):
    """With correction biases of std 0.2 a shift of 50 leaves sigmoid routers unimpressed."""
    model = small(architecture)
    generator = torch.Generator().manual_seed(0)
    for router in find_routers(model):
        with torch.no_grad():
            noise = torch.randn(router.correction_bias.shape, generator=generator)
            router.correction_bias.copy_(0.2 * noise)
    router = find_routers(model)[0]
    layer, expert = router.layer, int(router.correction_bias.flatten().argmin())
    profile = make_profile(model, [(layer, expert)], "bias", 1e20)
    share = {"logit": selected(model, profile, expert)}
    scored = profile.intervention.model_copy(update={"channel": "score", "strength": 10.0})
    share["score"] = selected(model, profile.model_copy(update={"intervention": scored}), expert)
    assert share["score"] == 1.0
    assert (share["logit"] < 0.5) == (architecture == "glm4_moe")


def selected(model, profile, expert):
    saved = find_routers(model)[0].correction_bias.clone()
    ids = torch.arange(64)[None]
    with torch.no_grad(), steer(model, profile), capture_routing(find_routers(model)) as routing:
        model(input_ids=ids, use_cache=False)
    assert torch.equal(find_routers(model)[0].correction_bias, saved)
    return float((routing.indices()[:, 0] == expert).any(-1).float().mean())


def test_a_shifted_choice_is_put_back_bit_for_bit_and_refused_where_it_is_offloaded():
    bias = torch.randn(1, 8).to(torch.bfloat16)
    saved = bias.clone()
    with shifted_choice(bias, torch.full((8,), float("-inf"))):
        assert torch.isinf(bias).all()
    assert torch.equal(bias, saved)
    with (
        pytest.raises(SteeringError, match="offloaded"),
        shifted_choice(torch.empty(8, device="meta"), torch.zeros(8)),
    ):
        pass
