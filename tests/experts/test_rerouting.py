"""The routing-exact form against whole forward passes with one layer's routing changed."""

from contextlib import contextmanager

import pytest
import torch
from transformers import AutoConfig

from dsmoe_eval.experts.influence import Form, Influence
from dsmoe_eval.experts.rerouting import reroutings
from dsmoe_eval.models.miniature import miniature
from dsmoe_eval.steering import (
    SteeringError,
    capture_routing,
    describe_scoring,
    find_routers,
    steer,
)

from ..conftest import EXPERTS, make_model, profile_of
from .by_force import (
    CARDS,
    STEP,
    assert_near,
    build,
    by_autograd,
    by_force,
    doubled,
    drawn,
    likelihood,
    prepared,
    shifted,
    zeros,
)

# With 512 experts, or of a shape with one that is in the quick set.
COSTLY = {
    "qwen3-next-80b-a3b-thinking", "gpt-oss-120b", "qwen3-30b-a3b-thinking-2507", "stdmoe-1b14b-1t"
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full) if n in COSTLY else n for n in CARDS]
)
def test_the_exact_form_equals_a_changed_layer_by_brute_force(name):
    model = build(name, torch.float64)
    texts = drawn(model, (6, 1), (4, 2))
    form = Form(steps=(STEP,) * len(find_routers(model)))
    got = Influence(model, form)(texts)[1]
    # The experts that move most, and some others.
    most = got.abs().sum((0, 1)).topk(4).indices.tolist()
    experts = [*most, *(e for e in range(3) if e not in most)]

    def raised(layer, expert):
        shift = zeros(model)
        shift[layer, expert] = STEP
        return shifted(model, shift)

    expected = torch.stack([by_force(model, text, experts, raised) for text in texts])
    assert_near(got[..., experts], expected, 1e-5)


RULES = {
    # The block selects by the router's logits.
    "jamba": {
        "num_experts": 8, "num_experts_per_tok": 3, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 1, "expert_layer_offset": 0,
    },
    # Sigmoid and a correction bias, within groups; a shared expert.
    "deepseek_v3": {
        "n_routed_experts": 16, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
        "first_k_dense_replace": 0,
    },
    "glm4_moe": {
        "n_routed_experts": 12, "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", RULES)
def test_other_rules_of_selection(kind):
    """Both forms, where no model of the ten has the rule."""
    model = prepared(doubled(miniature(AutoConfig.for_model(kind, **RULES[kind]))))
    routers, texts = find_routers(model), drawn(model, (5, 1), (4, 2))
    for router in routers:
        if router.correction_bias is not None:
            router.module.float()  # as they make of their weights themselves
            router.correction_bias.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    assert routers[0].selects == (kind != "jamba")
    expected = torch.stack([by_autograd(model, text)[1] for text in texts])
    assert_near(Influence(model)(texts)[1], expected, 1e-5)

    def raised(layer, expert):
        shift = zeros(model)
        shift[layer, expert] = STEP
        return shifted(model, shift)

    got = Influence(model, Form(steps=(STEP,) * len(routers)))(texts)[1]
    expected = torch.stack([by_force(model, text, list(range(8)), raised) for text in texts])
    assert_near(got[..., :8], expected, 1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("jetmoe", {"num_local_experts": 8}),
        ("longcat_flash", {"n_routed_experts": 6, "zero_expert_num": 4, "moe_topk": 3}),
    ],
)
def test_experts_that_are_called_otherwise_have_a_gradient_only(kind, settings):
    model = prepared(miniature(AutoConfig.for_model(kind, **settings)))
    texts, routers = drawn(model, (5, 1)), find_routers(model)
    assert_near(Influence(model)(texts)[1][0], by_autograd(model, texts[0])[1], 1e-5)
    with pytest.raises(SteeringError, match="single experts cannot be run"):
        Influence(model, Form(steps=(STEP,) * len(routers)))(texts)


def test_an_expert_out_of_reach_changes_nothing():
    model = build("qwen3-30b-a3b-instruct-2507")
    (text,) = drawn(model, (6, 1))
    layers = len(find_routers(model))
    got = Influence(model, Form(steps=(1e-3,) * layers))([text])[1]
    with capture_routing(find_routers(model)) as routing, torch.no_grad():
        likelihood(model, text)
    chosen = torch.zeros(layers, 128, dtype=torch.bool)
    for at in range(layers):
        chosen[at, routing.indices()[:, at].flatten()] = True
    assert int(((got[0] != 0) & ~chosen).sum()) <= 2  # just below the threshold
    # The last token predicts nothing, so that its experts of the last layer change nothing.
    assert float((got[0] != 0)[chosen].float().mean()) > 0.8


def test_the_score_channel_has_no_gradient_and_an_exact_form():
    model = prepared(doubled(make_model("ernie4_5_moe")))
    texts, routers = drawn(model, (7, 1)), find_routers(model)
    assert describe_scoring(routers[0]).correction_bias
    assert not Influence(model, Form("score"))(texts)[1].any()

    @contextmanager
    def raised(layer, expert):
        bias = routers[layer].correction_bias
        before = bias.clone()
        bias.flatten()[expert] += STEP
        yield
        bias.copy_(before)

    got = Influence(model, Form("score", (STEP,) * len(routers)))(texts)[1][0]
    assert_near(got, by_force(model, texts[0], list(range(EXPERTS)), raised), 1e-5)


@pytest.mark.parametrize("kind", ["olmoe", "qwen3_moe", "mixtral"])
def test_the_weight_channel_is_reweight(kind):
    model = prepared(doubled(make_model(kind)))
    texts, routers = drawn(model, (7, 1)), find_routers(model)

    def raised(layer, expert):
        profile = profile_of(model, "reweight", float(torch.tensor(STEP).double().exp() - 1))
        (one,) = [e for e in profile.experts if e.layer == routers[layer].layer][:1]
        chosen = (one.model_copy(update={"expert": expert}),)
        return steer(model, profile.model_copy(update={"experts": chosen}))

    got = Influence(model, Form("weight", (STEP,) * len(routers)))(texts)[1][0]
    assert_near(got, by_force(model, texts[0], list(range(EXPERTS)), raised), 1e-5)


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_16_bits_give_what_32_give_where_rounding_changes_no_selection(kind):
    both = []
    for dtype in (torch.float32, torch.bfloat16):
        model = prepared(make_model(kind).to(torch.bfloat16).to(dtype))
        form = Form(steps=(STEP,) * len(find_routers(model)))
        both.append(Influence(model, form)(drawn(model, (9, 1), (5, 1)))[1].flatten())
    assert both[1].dtype == torch.float32
    assert float(torch.corrcoef(torch.stack(both))[0, 1]) > 0.999


def test_a_step_of_zero_or_a_missing_one_is_refused():
    routers = find_routers(make_model("olmoe"))
    for steps in ((0.5,), (0.5, 0.0, 0.5)):
        with pytest.raises(SteeringError, match="for each of 3 layers"):
            reroutings(routers, "logit", steps)
