"""Small random models keep what routing is made of, and are the same each time."""

import pytest
import torch

from dsmoe_eval.models import miniature
from dsmoe_eval.steering import SteeringError, find_routers


def config(**settings):
    from transformers import AutoConfig

    return AutoConfig.for_model("qwen3_next", **settings)


def test_experts_and_kinds_of_layers_stay_and_the_rest_is_small():
    given = config()
    before = given.to_dict()
    model = miniature(given)
    assert given.to_dict() == before
    router = find_routers(model)[0]
    assert (router.experts, router.top_k) == (512, 10)
    assert {"linear_attention", "full_attention"} == set(model.config.layer_types)
    assert sum(parameter.numel() for parameter in model.parameters()) < 2e7


def test_it_is_the_same_each_time_and_takes_a_dtype():
    one, two = miniature(config(num_experts=16)), miniature(config(num_experts=16))
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert miniature(config(num_experts=16), torch.bfloat16).dtype == torch.bfloat16


def architecture(name, **settings):
    from transformers import AutoConfig

    return AutoConfig.for_model(name, **settings)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dots1", "no value for n_routed_experts, n_shared_experts, num_experts_per_tok, without"),
        ("deepseek_v2", "no value for num_experts_per_tok, without"),
        ("hunyuan_v1_moe", "no value for head_dim, without"),
        ("lfm2_moe", "no value for layer_types, without"),
        ("dbrx", "no value for rope_theta, without"),
        ("qwen4_exp", "no value for indexer_budget, indexer_compress_ratio, indexer_head_dim, "),
        ("gemma4_text", r"has no routers \(enable_moe_block is False, num_experts is None, "),
    ],
)
def test_fields_that_are_missing_are_named(name, reason):
    with pytest.raises(SteeringError, match=reason):
        miniature(architecture(name))


def test_what_transformers_cannot_build_is_refused_in_a_sentence():
    with pytest.raises(
        SteeringError, match=r"cannot build a small random model of 'mixtral'.*nose"
    ):
        miniature(architecture("mixtral", hidden_act="nose"))


def test_dense_layers_before_the_first_experts_are_passed_over():
    """Also those of which `first_k_dense_replace` says nothing, and a model with one MoE layer."""
    routers = find_routers(miniature(architecture("deepseek_v32", n_routed_experts=16)))
    assert [router.layer for router in routers] == [3, 4, 5]
    assert [router.layer for router in find_routers(miniature(architecture("nemotron_h")))] == [1]


def test_a_large_model_is_refused_before_it_is_built(monkeypatch):
    module = miniature.__globals__  # the package shows the function by the module's name
    monkeypatch.setitem(module, "_MOST_PARAMETERS", 100_000)
    monkeypatch.setitem(module, "_build", None)
    with pytest.raises(SteeringError, match=r"still has [\d,]+ parameters \('model.layers"):
        miniature(architecture("aria_text"))
