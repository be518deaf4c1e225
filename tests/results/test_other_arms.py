"""The arms that are compared with each other."""

from dsmoe_eval.results.arms import OVER
from dsmoe_eval.results.other_arms import OTHERS, ArmCells, other_arms, quantized_base
from dsmoe_eval.results.terms import NOTHING
from dsmoe_eval.variants import get_variant


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


def test_each_comparison_has_its_arms():
    assert tuple(OTHERS) == OVER
