"""The order in which arms answer."""

from dsmoe_eval.runs.answering import own_weights
from dsmoe_eval.runs.arms import PlannedArm, PreparedArm
from dsmoe_eval.variants import get_variant


def test_arms_with_other_weights_come_last_and_those_of_one_model_together():
    names = ["base-int4", "contrast", "sft-lora", "base-fp8", "contrast-int4", "prompt"]
    arms = [PreparedArm(PlannedArm(get_variant(name), "math", ("t",), "math")) for name in names]
    own, apart = own_weights(arms)
    assert [one.planned.variant.name for one in own] == ["contrast", "prompt"]
    assert [one.planned.variant.name for one in apart] == [
        "sft-lora", "base-int4", "contrast-int4", "base-fp8"
    ]  # fmt: skip
