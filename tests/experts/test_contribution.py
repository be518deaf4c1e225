"""EASY-EP's contributions against each expert's weights by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dsmoe_eval.experts import encode_documents, observe
from dsmoe_eval.experts.contribution import capture_contributions
from dsmoe_eval.steering import SteeringError, capture_routing, find_routers
from tests.conftest import make_model


@torch.no_grad()
def by_hand(model, ids):
    """[tokens, layers, k] from the residual stream, the experts' own matrices and their weights."""
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
    result = np.zeros(chosen.shape)
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
            result[token, place] = np.array(sizes) * max(0.0, 1 - cosine)
    return result


@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe", "qwen2_moe", "mixtral"])
def test_contributions_equal_those_by_hand(kind, tmp_path, letters):
    model = make_model(kind)
    with torch.no_grad():  # as they are drawn, the experts hardly move the residual stream
        for router in find_routers(model):
            router.consumer.down_proj.mul_(300)
    documents = encode_documents(letters, {"one": ["abcdefg"]})
    seen = observe(model, documents, tmp_path, saliency_model=model, contributions=True)
    (batch,) = seen.read()
    expected = by_hand(model, torch.tensor([documents[0].tokens]))
    np.testing.assert_allclose(batch.contributions, expected, rtol=2e-3, atol=1e-6)
    assert expected.max() > 1e-4


def test_every_architecture_shows_its_contributions(model, batch):
    routers = find_routers(model)
    with capture_contributions(model, routers) as last:
        with pytest.raises(SteeringError, match="no contributions were recorded"):
            last()
        with torch.no_grad():
            model(input_ids=batch[0], attention_mask=batch[1])
        assert last().shape == (batch[0].numel(), len(routers), routers[0].top_k)
        assert float(last().min()) >= 0


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
