"""The variants that there are."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import all_methods
from dsmoe_eval.variants import VARIANTS, control_for, get_variant


def test_every_steered_variant_names_a_method_and_an_intervention_that_exist():
    for variant in VARIANTS.values():
        if variant.kind == "steered":
            assert variant.method in all_methods()
            assert variant.intervention is not None


def test_a_control_shares_method_and_intervention_with_what_it_controls():
    controls = [variant for variant in VARIANTS.values() if variant.control_of]
    assert {variant.name for variant in controls} == {
        "sham", "random", "wrong-domain", "suppress", "suppress-random"
    }  # fmt: skip
    for control in controls:
        arm = VARIANTS[control.control_of]
        assert arm.is_tuned
        assert not control.is_tuned
        assert control.method == arm.method
        assert control.intervention in (arm.intervention, "mask")


def test_an_unknown_variant_lists_what_there_is():
    with pytest.raises(UserError, match=r"no variant 'dsmo'; there are: base, sham"):
        get_variant("dsmo")


def test_any_method_goes_with_any_intervention():
    arm = get_variant("esft-gate+amplify")
    assert (arm.method, arm.intervention, arm.experts) == ("esft-gate", "amplify", "own")
    assert arm.is_tuned
    control = get_variant("esft-gate+amplify+matched")
    assert control.control_of == arm.name
    assert control.experts == "matched"
    assert not control.is_tuned
    for name in ("esft-gate", "esft-gate+", "esft+amplify", "esft-gate+amplify+own", "+bias"):
        with pytest.raises(UserError, match="or METHOD\\+INTERVENTION"):
            get_variant(name)


def test_a_control_does_the_same_with_other_experts():
    among = VARIANTS.values()
    arm = get_variant("contrast")
    assert control_for(arm, "matched", among).name == "random"  # not suppress-random, which masks
    assert control_for(arm, "wrong", among).name == "wrong-domain"
    assert control_for(arm, "matched", [arm]) is None
    assert control_for(get_variant("dsmoe"), "matched", among) is None
    named = [get_variant(name) for name in ("npmi+bias+matched", "npmi+bias")]
    assert control_for(named[1], "matched", named) == named[0]
