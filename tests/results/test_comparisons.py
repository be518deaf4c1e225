"""The arms that are compared with each other."""

from dsmoe_eval.results.comparisons import ArmCells, controls_of, naming_arm
from dsmoe_eval.results.terms import NOTHING
from dsmoe_eval.variants import get_variant


def cells(name, target="math"):
    return ArmCells(get_variant(name), target, None, None, {}, NOTHING)


def test_controls_are_those_of_the_same_target():
    arm = cells("dsmoe")
    arms = [arm, cells("dsmoe+matched"), cells("dsmoe+matched-2", "law"), cells("dsmoe+wrong")]
    assert controls_of(arm, "random_matched", arms) == arms[1:2]
    assert controls_of(arm, "other_domain", arms) == arms[3:]
    assert controls_of(arms[1], "random_matched", arms) == []


def test_only_arms_are_compared_with_naming_the_domain():
    arms = [cells("prompt+wrong"), cells("prompt", "law"), cells("prompt"), cells("dsmoe")]
    assert naming_arm(arms[3], arms) == arms[2:3]
    assert naming_arm(arms[2], arms) == naming_arm(arms[0], arms) == []
    assert naming_arm(cells("dsmoe+matched"), arms) == []
    assert naming_arm(arms[3], arms[:2]) == []
