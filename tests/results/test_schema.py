"""What is no score is not read as one."""

import json

import pytest

from dsmoe_eval.results.arms import Arm


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.01, "0.5", True, None])
def test_a_score_is_a_number_from_0_to_1(runs_of, board, bad):
    arm = next(iter(runs_of(board)[0].arms.values()))
    data = arm.model_dump(mode="json", exclude_unset=True)
    Arm.model_validate_json(json.dumps(data))
    data["target_result"]["score_a"] = bad
    with pytest.raises(ValueError, match="score_a"):
        Arm.model_validate_json(json.dumps(data))
