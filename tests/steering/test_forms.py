"""Routers of other forms: steering equals a patch of the block that is written here by hand."""

import math
from dataclasses import dataclass
from types import MethodType

import pytest
import torch
from torch.nn import functional
from transformers import MixtralConfig

from dsmoe_eval.models import miniature
from dsmoe_eval.models.loading import identify_model
from dsmoe_eval.models.probing import probe_model
from dsmoe_eval.steering import (
    ProbeError,
    SteeringError,
    capture_routing,
    describe_scoring,
    find_routers,
    probe,
    steer,
)

from ..conftest import profile_of

STRENGTH = 4.0
CHOSEN = [0, 7]  # 7 computes nothing in LongCat
CONFIGS = {
    # Selection in the block: the router is a bare linear layer, or a module with one.
    "jamba": {
        "num_experts": 8, "num_experts_per_tok": 3, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 1, "expert_layer_offset": 0,
    },
    "dbrx": {
        "attn_config": {"rope_theta": 5e5, "kv_n_heads": 8, "clip_qkv": 8},
        "ffn_config": {"moe_num_experts": 8, "moe_top_k": 3},
    },
    # Experts that compute nothing are chosen like others.
    "longcat_flash": {"n_routed_experts": 6, "zero_expert_num": 4, "moe_topk": 3},
    # Gates in the order of the experts.
    "jetmoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
    # A table of scores, by which the experts' input is multiplied.
    "llama4_text": {"num_local_experts": 8, "num_experts_per_tok": 1, "num_hidden_layers": 2},
    # Two more logits, of experts that are always on.
    "inkling_text": {"n_routed_experts": 8, "num_experts_per_tok": 3, "num_hidden_layers": 2},
}  # fmt: skip
REFUSED = {
    "longcat_flash": {"force": "chooses by score"},
    "llama4_text": {"force": "changes this router's output", "reweight": "one expert per token"},
    "inkling_text": {"force": "changes this router's output"},
}
KINDS = ("reweight", "bias", "score", "amplify", "force", "mask")


@dataclass
class ByHand:
    """An intervention on two experts as its definition says, on plain tensors."""

    kind: str

    def logits(self, z):
        z = z.clone()
        if self.kind == "bias":
            z[:, CHOSEN] += math.log(1 + STRENGTH)
        elif self.kind == "mask":
            z[:, CHOSEN] = -torch.inf
        elif self.kind == "force":
            z = z.log_softmax(-1)
            z[:, CHOSEN] = z.max(-1, keepdim=True).values + 0.01
        return z

    def scores(self, choice):
        choice = choice.clone()
        choice[:, CHOSEN] += {"score": STRENGTH, "mask": -torch.inf}.get(self.kind, 0.0)
        return choice

    def weights(self, weights, indices):
        if self.kind not in ("reweight", "amplify"):
            return weights
        chosen = (indices == CHOSEN[0]) | (indices == CHOSEN[1])
        scaled = torch.where(chosen, weights * (1 + STRENGTH), weights)
        if self.kind == "reweight":
            scaled = scaled * weights.sum(-1, keepdim=True) / scaled.sum(-1, keepdim=True)
        return scaled


def jamba(block, x, change):
    flat = x.flatten(0, 1)
    probabilities = change.logits(flat @ block.router.weight.T).softmax(-1)
    weights, indices = probabilities.topk(block.top_k)
    return block.experts(flat, indices, change.weights(weights, indices)).view_as(x)


def dbrx(block, x, change):
    probabilities = change.logits(x.flatten(0, 1) @ block.router.layer.weight.T).softmax(-1)
    weights, indices = probabilities.topk(block.top_k)
    weights = weights / weights.sum(-1, keepdim=True)
    return block.experts(x, indices, change.weights(weights, indices))


def longcat_flash(block, x, change):
    flat, router = x.flatten(0, 1), block.router
    probabilities = change.logits(flat @ router.classifier.weight.T).softmax(-1)
    indices = change.scores(probabilities + router.e_score_correction_bias).topk(3).indices
    weights = probabilities.gather(-1, indices) * router.routed_scaling_factor
    weights = change.weights(weights, indices)
    out = torch.zeros_like(flat)
    for token, row in enumerate(indices.tolist()):
        for slot, expert in enumerate(row):
            one = flat[token]
            if expert < 6:
                gate, up = (block.experts.gate_up_proj[expert] @ one).chunk(2)
                one = block.experts.down_proj[expert] @ (functional.silu(gate) * up)
            out[token] += weights[token, slot] * one
    return out.view_as(x)


def jetmoe(block, x, change):
    flat = x.flatten(0, 1)
    best, indices = change.logits(flat @ block.router.layer.weight.T).topk(2)
    weights = change.weights(best.softmax(-1), indices)
    out = torch.zeros_like(flat)
    for token, row in enumerate(indices.tolist()):
        for slot, expert in enumerate(row):
            gate, up = (block.input_linear.weight[expert] @ flat[token]).chunk(2)
            one = block.output_linear.weight[expert] @ (block.activation(gate) * up)
            out[token] += weights[token, slot] * one
    return (out + block.bias).view_as(x)


def llama4_text(block, x, change):
    flat = x.flatten(0, 1)
    best, indices = change.logits(flat @ block.router.weight.T).topk(1)
    weights, experts = change.weights(best.sigmoid(), indices), block.experts
    out = block.shared_expert(flat)
    for token, (expert,) in enumerate(indices.tolist()):
        one = weights[token] * flat[token]
        gate, up = (one @ experts.gate_up_proj[expert]).chunk(2)
        out[token] += (up * functional.silu(gate)) @ experts.down_proj[expert]
    return out, None


def inkling_text(block, x, change):
    flat, gate = x.flatten(0, 1), block.gate
    z, always = (flat @ gate.weight.T).split([8, 2], -1)
    z = change.logits(z)
    indices = change.scores(z.sigmoid() + gate.e_score_correction_bias).topk(3).indices
    both = torch.cat([z.gather(-1, indices), always], -1).sigmoid()
    both = both / both.sum(-1, keepdim=True) * gate.route_scale * gate.global_scale
    weights = change.weights(both[:, :3], indices)
    out = block.experts(flat, indices, weights).view_as(x)
    return out + block.shared_experts(x, gammas=both[:, 3:].contiguous())


BLOCKS = {
    "jamba": jamba, "dbrx": dbrx, "longcat_flash": longcat_flash, "jetmoe": jetmoe,
    "llama4_text": llama4_text, "inkling_text": inkling_text,
}  # fmt: skip


@pytest.fixture(scope="module", params=list(CONFIGS))
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def model(architecture):
    return build(architecture)


def build(architecture, dtype=torch.float32):
    from transformers import AutoConfig

    built = miniature(AutoConfig.for_model(architecture, **CONFIGS[architecture]), dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for router in find_routers(built):
            if router.correction_bias is not None:
                router.correction_bias.normal_(std=0.1, generator=generator)
    return built


@torch.no_grad()
def logits(model):
    ids = torch.randint(0, 128, (2, 9), generator=torch.Generator().manual_seed(1))
    return model(input_ids=ids, use_cache=False).logits


def patched(model, architecture, change, monkeypatch):
    """The model's logits with blocks by hand."""
    with monkeypatch.context() as patch:
        for router in find_routers(model):
            by_hand = MethodType(lambda s, x: BLOCKS[architecture](s, x, change), router.block)
            patch.setattr(router.block, "forward", by_hand)
        return logits(model)


@pytest.mark.parametrize("kind", KINDS)
def test_steering_is_the_patch_by_hand(model, architecture, kind, monkeypatch):
    channel = "score" if kind == "score" else "logit"
    strength = {"mask": 1.0, "force": 0.01}.get(kind, STRENGTH)
    profile = profile_of(model, "bias" if kind == "score" else kind, strength, CHOSEN, channel)
    before = logits(model)
    refused = REFUSED.get(architecture, {}).get(kind)
    if kind == "score" and describe_scoring(find_routers(model)[0]).correction_bias is False:
        refused = "this router does not, so use the logit channel"
    if refused:
        with pytest.raises(SteeringError, match=refused):
            steer(model, profile).install()
    else:
        with steer(model, profile):
            steered = logits(model)
        expected = patched(model, architecture, ByHand(kind), monkeypatch)
        torch.testing.assert_close(steered, expected, rtol=0, atol=1e-5)
        assert float((steered - before).abs().max()) > 1e-4
    assert torch.equal(logits(model), before)


def test_the_patch_by_hand_is_the_model(model, architecture, monkeypatch):
    by_hand = patched(model, architecture, ByHand("none"), monkeypatch)
    torch.testing.assert_close(by_hand, logits(model), rtol=0, atol=1e-5)


def test_probe(architecture):
    """In bfloat16, where a block that selects by scores may see ties."""
    built = build(architecture, torch.bfloat16)
    assert probe_model(built, identify_model(architecture, "random", built)).passed


def test_capture_is_what_the_router_says_steered_or_not(model):
    """Also where steering begins inside of the capture."""
    routers = find_routers(model)
    profile = profile_of(model, "amplify", STRENGTH, CHOSEN)
    with capture_routing(routers) as outer:
        logits(model)
        plain = outer.weights()[:, 0]
        with steer(model, profile), capture_routing(routers) as inner:
            logits(model)
    assert torch.equal(outer.weights(), inner.weights())
    assert torch.equal(outer.indices(), inner.indices())
    assert inner.indices().shape[-1] == routers[0].top_k
    first = inner.indices()[:, 0]
    factor = torch.where((first == 0) | (first == 7), 1 + STRENGTH, 1.0)
    torch.testing.assert_close(inner.weights()[:, 0], plain * factor)


@pytest.mark.parametrize("kind", ["amplify", "reweight"])
def test_a_token_that_gets_every_expert(kind):
    """Logits and weights have one shape then. By hand: the weights change at the experts' input."""
    config = MixtralConfig(num_local_experts=4, num_experts_per_tok=4)
    model = miniature(config)
    assert probe_model(model, identify_model("all", "random", model)).passed
    with steer(model, profile_of(model, kind, STRENGTH, [1])):
        steered = logits(model)

    def change(_experts, given):
        hidden, indices, weights = given
        changed = weights * torch.where(indices == 1, 1 + STRENGTH, 1.0)
        if kind == "reweight":
            changed *= weights.sum(-1, keepdim=True) / changed.sum(-1, keepdim=True)
        return hidden, indices, changed

    for router in find_routers(model):
        router.consumer.register_forward_pre_hook(change)
    torch.testing.assert_close(steered, logits(model), rtol=0, atol=1e-6)


def test_a_router_that_selects_no_expert_is_refused():
    with pytest.raises(SteeringError, match="selects 0 experts per token"):
        miniature(MixtralConfig(num_local_experts=4, num_experts_per_tok=0))


def test_a_block_that_does_not_obey_fails_the_probe(model, architecture, monkeypatch):
    """By hand and unchanged, as in a fused kernel that reads the router's weight only."""
    profile, unchanged = profile_of(model, "bias", STRENGTH, CHOSEN), ByHand("none")
    ids = torch.randint(0, 128, (2, 9), generator=torch.Generator().manual_seed(1))
    router = find_routers(model)[0]
    by_hand = MethodType(lambda s, x: BLOCKS[architecture](s, x, unchanged), router.block)
    monkeypatch.setattr(router.block, "forward", by_hand)
    with pytest.raises((ProbeError, SteeringError), match=r"did not receive|did not run"):
        probe(model, profile, ids, torch.ones_like(ids))
