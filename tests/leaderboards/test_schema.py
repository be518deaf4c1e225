"""Who files a result has a name; a result takes its levels from its own header."""

import json

import pytest

from dsmoe_eval.leaderboards import Submission
from dsmoe_eval.leaderboards.schema import Result


@pytest.mark.parametrize("by", ["", "x" * 201])
def test_a_filers_name_has_a_length(submission, by):
    with pytest.raises(ValueError, match="by"):
        Submission(**(submission.model_dump() | {"by": by}))


def test_a_claim_is_judged_by_the_header_of_its_result(runs_of, board):
    result = runs_of(board)[0].results["contrast"]
    content = result.model_dump(mode="json", exclude_defaults=True)
    assert all(arm.target_result.claim.verdict == "improves" for arm in result.arms)
    content["header"]["significance_level"] = 1e-300
    strict = Result.model_validate_json(json.dumps(content))
    assert all(arm.target_result.claim.verdict == "inconclusive" for arm in strict.arms)
