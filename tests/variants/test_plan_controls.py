"""Controls that a plan's arms lack are added."""

import pytest

from dsmoe_eval.variants import controls_for, get_variant, with_controls


def test_controls_are_added_for_the_arms_that_lack_them():
    plan = [get_variant(name) for name in ("base", "prompt", "contrast", "random", "sft-lora")]

    def added(controls, draws=2):
        return [one.name for one in with_controls(plan, controls, draws)[len(plan) :]]

    assert added("none") == []
    assert added("placebo", 1) == ["prompt+wrong"]  # random is contrast's
    assert added("placebo") == ["prompt+wrong", "contrast+matched-2"]
    assert added("full") == ["prompt+wrong", "contrast+matched-2", "contrast+wrong",
                             "contrast+sham"]  # fmt: skip


@pytest.mark.parametrize(
    ("controls", "more"), [("placebo", []), ("full", ["wrong"]), ("none", None)]
)
def test_trained_experts_have_their_placebos(controls, more):
    arms = (get_variant("sft-esft"), get_variant("sft-lora"), get_variant("sft-router"))
    found = [one.name for one in with_controls(arms, controls, 2)][3:]
    ends = [] if more is None else ["matched", "matched-2", *more]
    assert found == [f"sft-esft+{end}" for end in ends]
    for name in ("sft-esft", "sft-esft-x3", "router-lens+bias", "reap+prune-12"):
        one = get_variant(name)
        draws = controls_for(one, "random_matched", with_controls([one], "full", 2))
        assert [draw.name for draw in draws] == [f"{name}+matched", f"{name}+matched-2"]
