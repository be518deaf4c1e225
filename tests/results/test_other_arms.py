"""The arms that are compared with each other."""

from dsmoe_eval.results.arms import OVER
from dsmoe_eval.results.other_arms import OTHERS, ArmCells, controls_of, naming_arm
from dsmoe_eval.results.terms import NOTHING
from dsmoe_eval.variants import get_variant


def cells(name, target="math"):
    return ArmCells(get_variant(name), target, None, None, {}, NOTHING)


def test_controls_are_those_of_the_same_target():
    arm = cells("dsmoe")
    arms = [arm, cells("dsmoe+matched"), cells("dsmoe+matched-2", "law"), cells("dsmoe+wrong")]
    assert controls_of("random_matched", arm, arms) == arms[1:2]
    assert controls_of("other_domain", arm, arms) == arms[3:]
    assert controls_of("random_matched", arms[1], arms) == []


def test_only_arms_are_compared_with_naming_the_domain():
    arms = [cells("prompt+wrong"), cells("prompt", "law"), cells("prompt"), cells("dsmoe")]
    assert naming_arm(arms[3], arms) == arms[2:3]
    assert naming_arm(arms[2], arms) == naming_arm(arms[0], arms) == []
    assert naming_arm(cells("dsmoe+matched"), arms) == []
    assert naming_arm(arms[3], arms[:2]) == []


def test_each_comparison_has_its_arms():
    assert tuple(OTHERS) == OVER
