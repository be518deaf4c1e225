"""Carving on a small random Llama: against that Llama, and against NumPy from the definitions."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2MoeForCausalLM

from dsmoe_eval.lab.carving import PROJECTIONS, CarvedLayer, CarvedShape, carve, carved_config

HIDDEN, LAYERS, RANK = 32, 2, 3
SHAPE = CarvedShape(neurons=44, shared=12, experts=8, active=3)
ALL = CarvedShape(neurons=44, shared=12, experts=8, active=8)
IDS = torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=HIDDEN, intermediate_size=SHAPE.neurons, rope_theta=1e5,
        num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, pad_token_id=None,
        tie_word_embeddings=True, rms_norm_eps=1e-5, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def layers(deltas, router=1.0):
    torch.manual_seed(1)
    rows = {"gate": SHAPE.neurons, "up": SHAPE.neurons, "down": HIDDEN}
    columns = {"gate": HIDDEN, "up": HIDDEN, "down": SHAPE.neurons}
    return [
        CarvedLayer(
            order=torch.randperm(SHAPE.neurons),
            router=router * torch.randn(SHAPE.experts, HIDDEN),
            deltas={
                name: (
                    0.3 * torch.randn(rows[name], RANK).bfloat16(),
                    0.3 * torch.randn(RANK, columns[name]).bfloat16(),
                )
                for name in (PROJECTIONS if deltas else ())
            },
        )
        for _ in range(LAYERS)
    ]


def loaded(dense, carved, shape, folder):
    """Write a checkpoint, and read it as transformers reads any."""
    weights = {n: w.contiguous() for n, w in dense.state_dict().items() if n != "lm_head.weight"}
    folder.mkdir()
    save_file(carve(weights, carved, shape), folder / "model.safetensors", {"format": "pt"})
    config = carved_config(dense.config.to_dict(), shape)
    (folder / "config.json").write_text(json.dumps(config))
    model, found = Qwen2MoeForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    return model.eval()


@torch.no_grad()
def test_all_experts_at_equal_weights_are_the_dense_model(dense, tmp_path):
    same = loaded(dense, layers(deltas=False, router=0.0), ALL, tmp_path / "all")
    assert (same(IDS).logits - dense(IDS).logits).abs().max() < 1e-5
    fewer = loaded(dense, layers(deltas=False, router=0.0), SHAPE, tmp_path / "few")
    assert (fewer(IDS).logits - dense(IDS).logits).abs().max() > 0.1


def in_numpy(dense, layer, carved, hidden):
    """An FFN of the carved model, from the README of the deltas; float64, [tokens, hidden]."""
    own = {name: dense.state_dict()[f"model.layers.{layer}.mlp.{name}_proj.weight"].double().numpy()
           for name in PROJECTIONS}  # fmt: skip
    order = carved.order.numpy()
    moved = {"gate": own["gate"][order], "up": own["up"][order], "down": own["down"][:, order]}
    for name, (left, right) in carved.deltas.items():
        moved[name] = moved[name] + left.double().numpy() @ right.double().numpy()
    gate = hidden @ moved["gate"].T
    neurons = gate / (1 + np.exp(-gate)) * (hidden @ moved["up"].T)
    logits = hidden @ carved.router.double().numpy().T
    bounds = list(pairwise(range(SHAPE.shared, SHAPE.neurons + 1, 4)))
    output = neurons[:, : SHAPE.shared] @ moved["down"][:, : SHAPE.shared].T
    for token in range(len(hidden)):
        best = np.argsort(-logits[token])[: SHAPE.active]
        weights = np.exp(logits[token, best])
        for expert, weight in zip(best, weights / weights.sum(), strict=True):
            part = slice(*bounds[expert])
            output[token] += 3 * weight * moved["down"][:, part] @ neurons[token, part]
    return output


@torch.no_grad()
def test_routing_and_deltas_are_those_of_the_definitions(dense, tmp_path):
    carved = layers(deltas=True)
    model = loaded(dense, carved, SHAPE, tmp_path / "model")
    hidden = torch.randn(1, 17, HIDDEN, generator=torch.Generator().manual_seed(2))
    for index, layer in enumerate(carved):
        got = model.model.layers[index].mlp(hidden)
        got = got[0] if isinstance(got, tuple) else got
        expected = in_numpy(dense, index, layer, hidden[0].double().numpy())
        assert np.abs(got.reshape(17, HIDDEN).numpy() - expected).max() < 1e-4


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="44 neurons less 12 cannot be shared by 5"):
        CarvedShape(neurons=44, shared=12, experts=5, active=3)
