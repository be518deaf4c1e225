"""Variants: which sources and controls a kind has."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.cards import Variant

LEARNED = {"name": "a", "summary": "b", "kind": "learned"}
SFT = LEARNED | {"kind": "sft"}
ESFT = SFT | {"recipe": "esft", "method": "esft-gate"}
STEERED = LEARNED | {"kind": "steered", "method": "dsmoe", "intervention": "bias"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (STEERED | {"expert_source": "shuffled_answers"}, "is for kind learned"),
        (STEERED | {"expert_source": "all_domains"}, "is for kind learned"),
        (LEARNED | {"expert_source": "random_matched"}, "learned takes shuffled_answers"),
        (LEARNED | {"method": "dsmoe"}, "learned takes no method"),
        (SFT | {"method": "dsmoe"}, "sft takes no method"),
        (SFT | {"control_of": "c"}, "sft takes no control_of"),
        (SFT | {"recipe": "router", "expert_source": "random_matched"}, "which alone has experts"),
        (STEERED | {"recipe": "lora"}, "takes no recipe or epochs"),
        (LEARNED | {"epochs": 2}, "takes no recipe or epochs"),
        (SFT | {"recipe": "esft"}, "recipe esft needs `method`"),
        (ESFT | {"intervention": "bias"}, "takes no intervention"),
        (ESFT | {"zero_strength": True}, "sft has no strength"),
        (SFT | {"expert_source": "zero_weight"}, "is for recipe lora-cka"),
        (STEERED | {"expert_source": "shuffled_rows"}, "is for recipe lora-cka"),
        (SFT | {"recipe": "lora-cka", "expert_source": "other_domain"}, "which alone has experts"),
        (SFT | {"recipe": "simsmoe", "control_of": "c"}, "sft takes no control_of"),
        (STEERED | {"keep": 3}, "`keep` is for the intervention prune"),
        (STEERED | {"intervention": "prune"}, "which needs it"),
        (STEERED | {"intervention": "prune", "keep": 0}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_refused(content, message):
    with pytest.raises(ValidationError, match=message):
        Variant.model_validate(content)


def test_a_learned_profile_is_not_tuned_and_may_be_empty():
    learned, steered = Variant.model_validate(LEARNED), Variant.model_validate(STEERED)
    assert learned.has_profile
    assert not learned.is_tuned
    assert not learned.must_act
    assert steered.is_tuned
    assert steered.must_act
    assert not steered.model_copy(update={"zero_strength": True}).must_act


def test_a_recipe_says_whether_experts_are_trained():
    assert Variant.model_validate(SFT).trained_by == "lora"
    esft = Variant.model_validate(ESFT)
    assert (esft.trained_by, esft.trains_experts, esft.is_tuned) == ("esft", True, False)
    assert not Variant.model_validate(SFT | {"recipe": "router"}).trains_experts
    Variant.model_validate(ESFT | {"control_of": "c", "expert_source": "random_matched"})
