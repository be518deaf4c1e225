"""A model's structure, read from modules that take no memory, against counts by hand."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from dsmoe_eval.models.architecture import parameters, read_architecture, weightless
from dsmoe_eval.steering import SteeringError, find_routers

HIDDEN, WIDTH, EXPERTS, TOP_K, LAYERS = 64, 32, 6, 2, 3
EXPERT = 3 * HIDDEN * WIDTH


def config(architecture, **settings):
    sizes = {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 99, "num_experts_per_tok": TOP_K,
    }  # fmt: skip
    return AutoConfig.for_model(architecture, **{**sizes, **settings})


def mixtral(**settings):
    return config("mixtral", intermediate_size=WIDTH, num_local_experts=EXPERTS, **settings)


def test_the_structure_of_a_model_with_experts_in_every_layer():
    found = read_architecture(weightless(mixtral()))
    real = AutoModelForCausalLM.from_config(mixtral())
    assert (found.class_name, found.layers) == ("MixtralForCausalLM", LAYERS)
    assert (found.moe_layers, found.unrouted) == ((0, 1, 2), ())
    assert (found.experts, found.top_k, found.native_bias) == (EXPERTS, TOP_K, False)
    assert found.shared_experts == (0.0,)
    assert found.total == sum(one.numel() for one in real.parameters())
    assert found.total - found.active == LAYERS * (EXPERTS - TOP_K) * EXPERT


@pytest.mark.parametrize("widths", [1, 2, 1.5])
def test_shared_experts_are_counted_in_routed_ones_without_their_gate(widths):
    """Qwen's block: one MLP behind a gate with one output."""
    shared = config(
        "qwen2_moe", num_experts=EXPERTS, moe_intermediate_size=WIDTH, intermediate_size=WIDTH,
        shared_expert_intermediate_size=int(widths * WIDTH), mlp_only_layers=[1],
    )  # fmt: skip
    found = read_architecture(weightless(shared))
    assert found.shared_experts == (widths,)
    assert found.moe_layers == (0, 2)


def test_shared_experts_beside_the_block_and_layers_that_differ():
    model = weightless(mixtral())
    model.model.layers[1].shared_mlp = nn.Sequential(nn.Linear(HIDDEN, 3 * WIDTH, bias=False))
    assert read_architecture(model).shared_experts == (0.0, 1.0)


def test_shared_experts_are_not_known_where_the_experts_have_no_block():
    """As in Gemma 4, whose layers have router and experts beside a dense MLP."""
    model = weightless(mixtral())
    for layer in model.model.layers:
        layer.gate, layer.experts = layer.mlp.gate, layer.mlp.experts
        layer.mlp = nn.Linear(HIDDEN, HIDDEN)
    assert read_architecture(model).shared_experts == ()


def test_a_bias_of_the_linear_over_the_experts():
    found = read_architecture(weightless(config("gpt_oss", num_local_experts=EXPERTS)))
    assert found.native_bias


def test_layers_that_differ_in_top_k_are_refused():
    model = weightless(mixtral())
    find_routers(model)[1].module.top_k = 1
    with pytest.raises(SteeringError, match="layers differ in top-k"):
        read_architecture(model)


def test_experts_without_a_router_are_idle_too():
    model = weightless(mixtral())
    before = read_architecture(model)
    layer = model.model.layers[2].mlp
    layer.gate = nn.Identity()  # as a table of tokens: no router, the same experts
    after = read_architecture(model)
    assert (after.moe_layers, after.unrouted) == ((0, 1, 2), (2,))
    assert before.total - before.active == after.total - after.active


def test_nothing_takes_memory():
    model = weightless(mixtral(num_hidden_layers=2))
    assert all(one.device.type == "meta" for one in model.parameters())
    assert parameters([model]) == sum(one.numel() for one in model.parameters())
    assert torch.get_default_device().type == "cpu"
