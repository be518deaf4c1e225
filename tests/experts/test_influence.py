"""The gradient form against autograd on whole logits, a closed form, and finite differences."""

from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional

from dsmoe_eval.experts.influence import Form, Influence
from dsmoe_eval.steering import capture_routing, describe_scoring, find_routers

from ..conftest import make_model
from .by_force import (
    CARDS,
    assert_near,
    build,
    by_autograd,
    doubled,
    drawn,
    likelihood,
    prepared,
    shifted,
    slopes,
    zeros,
)


@pytest.mark.parametrize("name", CARDS)
def test_each_row_of_a_batch_equals_autograd_on_that_text_alone(name):
    model = build(name)
    texts = drawn(model, (7, 1), (4, 2), (5, 4))
    values, gradient = Influence(model)(texts)
    expected = [by_autograd(model, text) for text in texts]
    likelihoods = torch.stack([one for one, _ in expected])
    torch.testing.assert_close(values.double(), likelihoods, rtol=1e-5, atol=1e-5)
    assert_near(gradient, torch.stack([one for _, one in expected]), 1e-5)


@torch.no_grad()
def routed(model, text, shift):
    with shifted(model, shift), capture_routing(find_routers(model)) as routing:
        value = likelihood(model, text)
    return value, routing.indices().sort(-1).values


@pytest.mark.parametrize("name", CARDS)
def test_the_gradient_equals_differences_where_no_selection_changes(name):
    """In float64, though transformers rounds scores to float32 inside."""
    model = build(name, torch.float64)
    (text,) = drawn(model, (6, 1))
    gradient = Influence(model)([text])[1][0]
    compared = 0
    for flat in gradient.abs().flatten().topk(6).indices.tolist():
        step = zeros(model)
        step.view(-1)[flat] = 5e-3
        (up, above), (down, below) = (routed(model, text, sign * step) for sign in (1, -1))
        if torch.equal(above, below):
            compared += 1
            slope = float(up - down) / 1e-2
            assert abs(slope - float(gradient.view(-1)[flat])) <= 1e-3 * float(gradient.abs().max())
    assert compared >= 3


class Exact(type(find_routers(make_model("olmoe"))[0].module)):
    """OLMoE's router without the cast to float32."""

    def forward(self, hidden_states):
        hidden_states = hidden_states.reshape(-1, self.hidden_dim)
        router_logits = torch.nn.functional.linear(hidden_states, self.weight)
        value, indices = torch.topk(router_logits.softmax(-1), self.top_k, dim=-1)
        return router_logits, value, indices


def exact_model():
    model = prepared(doubled(make_model("olmoe")))
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.forward = lambda x, w=module.weight: functional.rms_norm(x, w.shape, w, 1e-6)
    for router in find_routers(model):
        router.module.__class__ = Exact
    return model


def test_a_block_that_is_float64_all_through_equals_differences():
    model = exact_model()
    (text,) = drawn(model, (8, 2))
    gradient = Influence(model)([text])[1][0]
    differences = torch.zeros_like(gradient)
    for flat in range(gradient.numel()):
        step = zeros(model)
        step.view(-1)[flat] = 1e-4
        (up, above), (down, below) = (routed(model, text, sign * step) for sign in (1, -1))
        assert torch.equal(above, below)
        differences.view(-1)[flat] = (up - down) / 2e-4
    assert_near(gradient, differences, 1e-6)


@pytest.mark.parametrize("kind", ["olmoe", "qwen3_moe", "mixtral"])
def test_the_weight_channel_equals_the_closed_form(kind):
    model = prepared(doubled(make_model(kind)))
    texts = drawn(model, (7, 1))
    gradient = Influence(model, Form("weight"))(texts)[1][0]
    assert_near(gradient, closed_form(model, texts[0]), 1e-5)
    logits = Influence(model)(texts)[1][0]
    if describe_scoring(find_routers(model)[0]).renormalised:  # a factor then shifts the logit
        assert_near(logits, gradient, 1e-5)


def closed_form(model, text):
    """Sum over tokens of w_e <g, f_e - y / sum of w>."""
    slope, result = slopes(model, text), torch.zeros_like(zeros(model))
    routers = find_routers(model)
    with capture_routing(routers) as routing, torch.no_grad(), inputs(routers) as seen:
        likelihood(model, text)
    indices, weights = routing.indices(), routing.weights()
    for at, router in enumerate(routers):
        gradient, mixture = (one.flatten(0, -2) for one in slope[at])
        for token, hidden in enumerate(seen[at]):
            for expert, weight in zip(indices[token, at], weights[token, at], strict=True):
                gate, up = (router.consumer.gate_up_proj[expert] @ hidden).chunk(2)
                output = router.consumer.down_proj[expert] @ (functional.silu(gate) * up)
                mean = mixture[token] / weights[token, at].sum()
                result[at, expert] += weight * (gradient[token] @ (output - mean))
    return result


@contextmanager
def inputs(routers):
    seen = {}

    def keep(at):
        return lambda _module, args: seen.update({at: args[0].flatten(0, -2)})

    handles = [r.consumer.register_forward_pre_hook(keep(at)) for at, r in enumerate(routers)]
    yield seen
    for handle in handles:
        handle.remove()
