"""The model under training is the carved checkpoint, and without its mask the dense model."""

import json

import torch
from safetensors.torch import save_file
from transformers import Qwen2MoeForCausalLM

from dsmoe_eval.lab.carving import carve, carved_config
from dsmoe_eval.lab.masked_moe import as_dense, make_trainable
from dsmoe_eval.lab.neurons import choose_carving

from .small_llama import RECIPE, SEQUENCES, SHAPE, dense, nothing


@torch.no_grad()
def test_the_model_in_training_is_the_checkpoint_and_the_dense_model(tmp_path):
    carved = choose_carving(dense(), [SEQUENCES[:4]], SHAPE, 0, nothing)
    model = dense()
    layers = make_trainable(model, carved, SHAPE, RECIPE.rank)
    for layer in layers:
        layer.router.normal_()
        for factor in layer.factors.values():
            factor.copy_(0.3 * torch.randn_like(factor).bfloat16())
    kept = [layer.carved() for layer in layers]
    weights = {n: w.contiguous() for n, w in dense().state_dict().items() if n != "lm_head.weight"}
    save_file(carve(weights, kept, SHAPE), tmp_path / "model.safetensors", {"format": "pt"})
    config = carved_config(dense().config.to_dict(), SHAPE)
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Qwen2MoeForCausalLM.from_pretrained(tmp_path).eval()
    logits, expected = model(SEQUENCES).logits, dense()(SEQUENCES).logits
    assert (logits - checkpoint(SEQUENCES).logits).abs().max() < 1e-4
    assert (logits - expected).abs().max() > 0.1
    with as_dense(layers):
        assert (model(SEQUENCES).logits - expected).abs().max() < 1e-5


def test_only_routers_and_deltas_are_trained():
    model = dense()
    make_trainable(model, choose_carving(model, [SEQUENCES], SHAPE, 0, nothing), SHAPE, RECIPE.rank)
    names = {name for name, one in model.named_parameters() if one.requires_grad}
    factors = [f"factors.{letter}{which}" for letter in "AB" for which in "gud"]
    assert names == {
        f"model.layers.{layer}.mlp.{name}" for layer in (0, 1) for name in ["router", *factors]
    }
