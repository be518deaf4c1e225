"""The file of a regression says its version, holds no NaN and no unknown key."""

import json

import pytest
from pydantic import ValidationError

from dsmoe_eval.results.regression import GainDifference, RoutingAgreement

GAIN = {
    "n": 10, "clusters": 10, "old_gain": 0.1, "new_gain": 0.0, "difference": -0.1, "ci95": None,
    "p_value": 1.0, "p_adjusted": 1.0, "test": "paired t", "mde80": None,
    "verdict": "inconclusive", "claim": "inconclusive",
}  # fmt: skip


def test_what_is_written_is_read_again():
    found = GainDifference.model_validate_json(json.dumps(GAIN))
    assert json.loads(found.model_dump_json()) == GAIN
    routing = RoutingAgreement(
        tokens=3, layers=(0, 2), shared=0.5, by_chance=0.25, shared_by_layer=(0.25, 0.75)
    )
    assert RoutingAgreement.model_validate_json(routing.model_dump_json()) == routing


@pytest.mark.parametrize(
    "change",
    [{"n": 0}, {"p_value": 1.5}, {"verdict": "lost"}, {"ci95": [0.1, -0.1]}, {"surprise": 1}],
)
def test_what_cannot_be_is_refused(change):
    with pytest.raises(ValidationError):
        GainDifference.model_validate_json(json.dumps(GAIN | change))
