"""Small configurations: widths are small, and routing and proportions stay."""

from dsmoe_eval.models.shrinking import (
    depth_of,
    empty_fields,
    first_layers,
    kinds_of,
    said_of_experts,
    shrink,
)
from dsmoe_eval.steering import SteeringError


def config(model_type, **settings):
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **settings)


def test_fields_get_small_by_their_meaning_and_routing_stays():
    given = config("deepseek_v3")
    before = given.to_dict()
    small = shrink(given)
    assert given.to_dict() == before
    assert (small.hidden_size, small.vocab_size, small.intermediate_size) == (64, 128, 32)
    assert (small.num_attention_heads, small.num_key_value_heads) == (4, 4)
    for name in ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group"):
        assert getattr(small, name) == getattr(given, name)
    # One is the sum of the two others, and the rotary part is the head dimension of the config.
    assert small.qk_head_dim == small.qk_nope_head_dim + small.qk_rope_head_dim == 24
    assert small.head_dim == small.qk_rope_head_dim == 8


def test_nested_configurations_and_other_names_get_small_too():
    small = shrink(config("dbrx", d_model=6144, n_heads=48, ffn_config={"moe_num_experts": 16}))
    assert (small.d_model, small.n_heads, small.ffn_config.ffn_hidden_size) == (64, 4, 32)
    assert small.ffn_config.hidden_size == small.d_model
    assert (small.ffn_config.moe_num_experts, small.ffn_config.moe_top_k) == (16, 1)


def test_mambas_heads_fill_the_width_as_before():
    small = shrink(config("granitemoehybrid"))
    assert small.mamba_n_heads * small.mamba_d_head == small.mamba_expand * small.hidden_size
    small.validate_architecture()


def test_fields_of_single_layers_and_lists_with_an_entry_per_layer():
    given = config("gemma4_text")
    short = first_layers(shrink(given), 6)
    assert (depth_of(short), len(short.layer_types)) == (6, 6)
    assert kinds_of(short) == kinds_of(given) == {"sliding_attention", "full_attention"}
    assert [short.per_layer_config[layer].head_dim for layer in (0, 5)] == [8, 16]
    heads = shrink(config("laguna")).num_attention_heads_per_layer
    assert set(heads) == {4}


def test_a_list_of_other_length_stays():
    short = first_layers(config("deepseek_v4"), 5)
    assert len(short.mlp_layer_types) == len(short.layer_types) == 5
    assert short.compress_rates == config("deepseek_v4").compress_rates


def test_empty_fields_are_named_only_if_the_error_is_about_them():
    given = config("dots1", num_experts_per_tok=6)
    assert said_of_experts(given)["num_experts_per_tok"] == 6
    assert empty_fields(given, SteeringError("a router without experts")) == ["n_routed_experts"]
    assert empty_fields(given, ValueError("some other")) == []
    assert empty_fields(given, TypeError("of no code of transformers")) == []
    assert empty_fields(given, AttributeError(name="rope_theta", obj=given)) == ["rope_theta"]
