"""The arms that are compared with each other."""

from dsmoe_eval.results.arms import OVER
from dsmoe_eval.results.other_arms import (
    OTHERS,
    ArmCells,
    equals_model,
    other_arms,
    quantized_base,
    quantized_model_of,
)
from dsmoe_eval.results.terms import NOTHING
from dsmoe_eval.variants import get_variant

from .test_arms import arm_of


def cells(name, target="math"):
    return ArmCells(get_variant(name), target, None, None, {}, NOTHING)


def test_controls_are_those_of_the_same_target():
    arm = cells("dsmoe")
    arms = [arm, cells("dsmoe+matched"), cells("dsmoe+matched-2", "law"), cells("dsmoe+wrong")]
    assert other_arms("over_placebo", arm, arms) == arms[1:2]
    assert other_arms("specificity", arm, arms) == arms[3:]
    assert other_arms("over_placebo", arms[1], arms) == []


def test_only_arms_are_compared_with_naming_the_domain():
    arms = [cells("prompt+wrong"), cells("prompt", "law"), cells("prompt"), cells("dsmoe")]
    assert other_arms("over_prompt", arms[3], arms) == arms[2:3]
    assert other_arms("over_prompt", arms[2], arms) == other_arms("over_prompt", arms[0], arms)
    assert other_arms("over_prompt", arms[2], arms) == []
    assert other_arms("over_prompt", cells("dsmoe+matched"), arms) == []
    assert other_arms("over_prompt", arms[3], arms[:2]) == []


def test_a_quantized_arm_is_beside_the_model_of_its_form_also_if_it_is_a_control():
    names = ("base-int8", "base-int4", "dsmoe", "dsmoe-int4", "dsmoe-int4+matched")
    variants = [get_variant(name) for name in names]
    for own in variants[3:]:
        assert quantized_base(own, variants) == (variants[1],)
        assert quantized_base(own, variants[:1]) == ()
    assert [quantized_base(own, variants) for own in variants[:3]] == [(), (), ()]


def test_training_with_a_loss_is_beside_training_of_the_same_budget_without_it():
    arms = [cells("sft-lora-x1"), cells("sft-lora"), cells("sft-lora-cka")]
    assert other_arms("over_lora", arms[2], arms) == arms[1:2]
    assert other_arms("over_lora", arms[1], arms) == []


def test_a_sham_equals_its_model_and_not_base():
    scores = [0, 0, 1, 0], [1, 1, 0, 0]
    plain = arm_of(scores, {"law": scores})
    over = arm_of((scores[1], scores[1]), {"law": scores}).target_result
    model = plain.model_copy(update={"variant": "base-int4"})
    sham = plain.model_copy(update={"variant": "contrast-int4+sham", "over_quantized": over})
    arms = [plain, model.model_copy(update={"target": "law"}), model, sham]
    assert quantized_model_of(sham, arms) is model
    assert quantized_model_of(plain, arms) is quantized_model_of(model, arms) is None
    assert equals_model(sham, arms)
    assert not equals_model(sham, arms[:2])
    assert not equals_model(plain, arms)
    for changes in (
        {"over_quantized": plain.target_result},
        {"over_quantized": None},
        {"domains": arm_of(scores, {"law": (scores[0], scores[0])}).domains},
        {"target_result": over},
        {"domains": sham.domains * 2},
    ):
        assert not equals_model(sham.model_copy(update=changes), arms)


def test_each_comparison_has_its_arms():
    assert tuple(OTHERS) == OVER
