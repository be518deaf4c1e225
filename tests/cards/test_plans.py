"""Plans say which model, or which several, and allow overlap by name only."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.cards import Plan, Sft, Task, Tuning, Variant
from dsmoe_eval.registry import load_plan


def test_overlapping_splits_are_asked_for_by_name():
    plan, _ = load_plan("lab")
    assert not plan.allow_leakage
    assert Plan.model_validate(plan.model_dump() | {"allow_leakage": True}).allow_leakage


@pytest.mark.parametrize(
    ("card", "content", "name"),
    [
        (Plan, {"alpha": 0.05}, "significance_level"),
        (Plan, {"overlap": "paper"}, "allow_leakage: true"),
        (Tuning, {"experts": [1]}, "expert_counts"),
        (Sft, {"alpha": 16}, "lora_alpha"),
        (Variant, {"experts": "matched"}, "expert_source"),
        (Variant, {"null": True}, "zero_strength"),
        (Task, {"key": "id"}, "group_column"),
        (Task, {"valid": "x"}, "answer_pattern"),
    ],
)
def test_a_former_key_is_an_error_that_names_the_new_one(card, content, name):
    with pytest.raises(ValidationError, match=f"is now `{name}`"):
        card.model_validate(content)


def test_one_model_or_several():
    content = load_plan("lab")[0].model_dump()
    with pytest.raises(ValidationError, match="one of the two"):
        Plan.model_validate(content | {"models": ["a"]})
    with pytest.raises(ValidationError, match="one of the two"):
        Plan.model_validate(content | {"model": ""})
    several = Plan.model_validate(content | {"model": "", "models": ["a", "b"]})
    assert several.of("b").model == "b"
    assert several.of("b").models == ()


def test_a_revision_follows_the_name_of_the_model():
    content = load_plan("lab")[0].model_dump() | {"model": "a/b", "revision": "v1"}
    plan = Plan.model_validate(content)
    assert plan.named_model == "a/b@v1"
    one = plan.of(plan.named_model)
    assert (one.model, one.revision, one.named_model) == ("a/b@v1", None, "a/b@v1")
    assert plan.of("").named_model == ""


def test_what_only_vllm_has_is_asked_of_vllm():
    content = load_plan("lab")[0].model_dump()
    assert Plan.model_validate(content).engine == "transformers"
    spread = {"engine": "vllm", "tensor_parallel": 2, "expert_parallel": True}
    assert Plan.model_validate(content | spread).tensor_parallel == 2
    assert Plan.model_validate(content | spread).learner == "transformers"
    assert Plan.model_validate(content | spread | {"learner": "vllm"}).learner == "vllm"
    refused = {
        "routing_from: engine needs another engine": {"routing_from": "engine"},
        "learner: vllm needs `engine: vllm`": {"learner": "vllm"},
        "tensor_parallel needs `engine: vllm`": {"tensor_parallel": 2},
        "expert_parallel needs": {"engine": "vllm", "expert_parallel": True},
        "'transformers' or 'vllm'": {"engine": "llama.cpp"},
        "greater than or equal to 1": {"engine": "vllm", "tensor_parallel": 0},
        "experts_implementation is for": {"engine": "vllm", "experts_implementation": "eager"},
        "attn_implementation is for": {"engine": "vllm", "attn_implementation": "sdpa"},
        "revision is for one `model`": {"model": "a/b@c", "revision": "v1"},
    }
    for reason, changes in refused.items():
        with pytest.raises(ValidationError, match=reason):
            Plan.model_validate(content | changes)


def test_one_model_of_a_plan_perhaps_with_another_seed():
    plan = load_plan("paper")[0]
    assert (plan.of("m").model, plan.of("m").models, plan.of("m").seed) == ("m", (), plan.seed)
    assert plan.of("m", 0).seed == 0
    assert plan.of("m", 7).seed == 7


def test_resources_are_no_part_of_what_a_plan_is():
    content = load_plan("lab")[0].model_dump()
    plan = Plan.model_validate(content | {"resources": {"gpus": 2}})
    assert (plan.resources.gpus, plan.resources.cpus) == (2, None)
    assert plan.of("other").resources.gpus == 2
    assert plan.model_dump(mode="json") == load_plan("lab")[0].model_dump(mode="json")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Plan.model_validate(content | {"resources": {"gpus": 0}})
    sharded = {"engine": "vllm", "tensor_parallel": 4}
    with pytest.raises(ValidationError, match="at least tensor_parallel"):
        Plan.model_validate(content | sharded | {"resources": {"gpus": 2}})


def test_neurons_are_identified_in_transformers_and_have_blocks():
    content = load_plan("lab")[0].model_dump() | {"sites": "neurons"}
    assert Plan.model_validate(content | {"neurons": {"block": 8}}).neurons.block == 8
    assert Plan.model_validate(content | {"engine": "vllm"}).learner == "transformers"
    for key, value in (("learner", "vllm"), ("routing_from", "engine")):
        with pytest.raises(ValidationError, match="neurons are identified in transformers"):
            Plan.model_validate(content | {"engine": "vllm", key: value})
    with pytest.raises(ValidationError, match=r"neurons.block needs `sites: neurons`"):
        Plan.model_validate(content | {"sites": "experts", "neurons": {"block": 8}})
