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


def test_what_cannot_be_built_small_is_refused_with_the_reason():
    from transformers import AutoConfig

    with pytest.raises(SteeringError, match="no small random model of 'dots1'"):
        miniature(AutoConfig.for_model("dots1"))
