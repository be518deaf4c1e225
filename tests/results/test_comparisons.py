"""The arms that are compared with each other."""

from dsmoe_eval.results.comparisons import ArmCells, _controls, _naming
from dsmoe_eval.results.terms import NOTHING
from dsmoe_eval.variants import get_variant


def cells(name, target="math"):
    return ArmCells(get_variant(name), target, None, None, {}, NOTHING)


def test_controls_are_those_of_the_same_target():
    arm = cells("dsmoe")
    arms = [arm, cells("dsmoe+matched"), cells("dsmoe+matched-2", "law"), cells("dsmoe+wrong")]
    assert _controls(arm, "random_matched", arms) == arms[1:2]
    assert _controls(arm, "other_domain", arms) == arms[3:]
    assert _controls(arms[1], "random_matched", arms) == []


def test_only_arms_are_compared_with_naming_the_domain():
    arms = [cells("prompt+wrong"), cells("prompt", "law"), cells("prompt"), cells("dsmoe")]
    assert _naming(arms[3], arms) == arms[2:3]
    assert _naming(arms[2], arms) == _naming(arms[0], arms) == []
    assert _naming(cells("dsmoe+matched"), arms) == []
    assert _naming(arms[3], arms[:2]) == []
