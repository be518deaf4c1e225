"""The variants that there are."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import METHODS
from dsmoe_eval.variants import VARIANTS, get_variant


def test_every_steered_variant_names_a_method_and_an_intervention_that_exist():
    for variant in VARIANTS.values():
        if variant.kind == "steered":
            assert variant.method in METHODS
            assert variant.intervention in ("reweight", "bias")


def test_a_control_shares_method_and_intervention_with_what_it_controls():
    controls = [variant for variant in VARIANTS.values() if variant.control_of]
    assert {variant.name for variant in controls} == {"sham", "random", "wrong-domain"}
    for control in controls:
        arm = VARIANTS[control.control_of]
        assert arm.is_tuned
        assert not control.is_tuned
        assert (control.method, control.intervention) == (arm.method, arm.intervention)


def test_an_unknown_variant_lists_what_there_is():
    with pytest.raises(UserError, match=r"no variant 'dsmo'; there are: base, sham"):
        get_variant("dsmo")
