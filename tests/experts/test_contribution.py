"""EASY-EP's and REAP's contributions against each expert's weights by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dsmoe_eval.experts import count_routing, encode_documents, get_method, observe
from dsmoe_eval.experts.contribution import capture_contributions
from dsmoe_eval.steering import SteeringError, capture_routing, find_routers
from tests.conftest import make_model
from tests.grouped import EXPERTS, GROUPS, SCALE, TOP_K, grouped_model


@torch.no_grad()
def by_hand(model, ids):
    """Both, [tokens, layers, k], from the residual stream, the experts' matrices and weights."""
    layers = model.model.layers
    routers = find_routers(model)
    inputs, norms = {}, {}
    handles = []
    for router in routers:

        def keep(_module, args, output, at=router.layer):
            inputs[at], norms[at] = args[0], output

        norm = layers[router.layer].post_attention_layernorm
        handles.append(norm.register_forward_hook(keep))
    with capture_routing(routers) as routing:
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    chosen, weights = routing.indices(), routing.weights()
    moved, gated = np.zeros(chosen.shape), np.zeros(chosen.shape)
    for place, router in enumerate(routers):
        experts = router.consumer
        residual, hidden = inputs[router.layer][0], norms[router.layer][0]
        for token in range(len(hidden)):
            routed = torch.zeros_like(hidden[token])
            sizes = []
            for expert, weight in zip(
                chosen[token, place].tolist(), weights[token, place].tolist(), strict=True
            ):
                gate, up = (experts.gate_up_proj[expert] @ hidden[token]).chunk(2)
                output = experts.down_proj[expert] @ (functional.silu(gate) * up)
                routed += weight * output
                sizes.append(weight * float(output.norm()))
            one = residual[token]
            cosine = float(functional.cosine_similarity(one, one + routed, dim=0))
            gated[token, place] = np.array(sizes)
            moved[token, place] = gated[token, place] * max(0.0, 1 - cosine)
    return moved, gated


@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe", "qwen2_moe", "mixtral"])
def test_contributions_equal_those_by_hand(kind, tmp_path, letters):
    model = make_model(kind)
    with torch.no_grad():  # as they are drawn, the experts hardly move the residual stream
        for router in find_routers(model):
            router.consumer.down_proj.mul_(300)
    documents = encode_documents(letters, {"one": ["abcdefg"]})
    seen = observe(model, documents, tmp_path, saliency_model=model, contributions=True)
    (batch,) = seen.read()
    moved, gated = by_hand(model, torch.tensor([documents[0].tokens]))
    np.testing.assert_allclose(batch.contributions, moved, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(batch.gated, gated, rtol=1e-4, atol=1e-6)
    assert moved.max() > 1e-4


@torch.no_grad()
def test_reap_weighs_by_the_true_gates_of_a_sigmoid_router(tmp_path, letters):
    """GLM-4-MoE: sigmoid, chosen by score + bias within a group, weights scaled to a sum of 2.5."""
    model = grouped_model()
    documents = encode_documents(letters, {"one": ["abcdefghij"], "two": ["^jihgf"]})
    seen = observe(model, documents, tmp_path, saliency_model=None, contributions=True)
    counts = count_routing(seen).in_phase("prompt")
    hidden = {}

    def keep(at):
        return lambda _module, args, _output: hidden.update({at: args[0][0].numpy()})

    routers = find_routers(model)
    handles = [one.block.register_forward_hook(keep(one.layer)) for one in routers]
    model(input_ids=torch.tensor([documents[0].tokens]))
    for handle in handles:
        handle.remove()
    expected = np.zeros((len(routers), EXPERTS))
    for row, router in enumerate(routers):
        scores = 1 / (1 + np.exp(-hidden[router.layer] @ router.weight.numpy().T))
        choice = scores + router.correction_bias.numpy()
        sums = np.sort(choice.reshape(-1, GROUPS, EXPERTS // GROUPS), -1)[..., -2:].sum(-1)
        other = np.repeat(sums != sums.max(-1, keepdims=True), EXPERTS // GROUPS, -1)
        best = np.argsort(np.where(other, -np.inf, choice), -1)[:, -TOP_K:]
        gates = np.take_along_axis(scores, best, -1)
        gates = SCALE * gates / gates.sum(-1, keepdims=True)
        for expert in range(EXPERTS):
            at, slot = np.nonzero(best == expert)
            gate, up = (
                router.consumer.gate_up_proj[expert] @ torch.tensor(hidden[router.layer][at]).T
            ).chunk(2)
            outputs = (router.consumer.down_proj[expert] @ (functional.silu(gate) * up)).T
            if len(at):
                expected[row, expert] = (gates[at, slot] * outputs.norm(dim=-1).numpy()).mean()
    got = get_method("reap").score(counts, "one")
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert (expected == 0).any()  # an expert that is never used scores 0
    assert (got != get_method("reap").score(counts, "two")).any()


def test_every_architecture_shows_its_contributions(model, batch):
    routers = find_routers(model)
    with capture_contributions(model, routers) as last:
        with pytest.raises(SteeringError, match="no contributions were recorded"):
            last()
        with torch.no_grad():
            model(input_ids=batch[0], attention_mask=batch[1])
        shape = (batch[0].numel(), len(routers), routers[0].top_k)
        for values in last():
            assert values.shape == shape
            assert float(values.min()) >= 0


def test_experts_that_do_more_than_they_show_are_refused(batch, monkeypatch):
    model = make_model("qwen3_moe")
    experts = find_routers(model)[0].consumer
    forward = experts.forward
    monkeypatch.setattr(experts, "forward", lambda *args: forward(*args) + args[0].sum())
    with (
        capture_contributions(model, find_routers(model)),
        pytest.raises(SteeringError, match="layer 0: the experts' weighted outputs do not add up"),
    ):
        model(input_ids=batch[0])
