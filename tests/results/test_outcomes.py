"""What the stored comparisons of an outcome say, and what they refuse."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.results.outcomes import OutcomeDifference, OutcomeResult
from dsmoe_eval.results.paired import Levels

ROW = {
    "n": 20, "clusters": 10, "level_a": 1.5, "level_b": 1.4, "gain": 0.1, "gained": 15, "lost": 5,
    "ci95": (0.05, 0.15), "p_value": 0.001, "test": "cluster-robust t", "mde80": 0.07,
}  # fmt: skip
TASK = ROW | {"domain": "math", "task": "math_text", "cells": ("ab" * 8, "cd" * 8)}


def result(**changes):
    fields = {"outcome": "bits_per_byte", "margin": 0.02, "target": ROW, "non_targets": None}
    return OutcomeResult.model_validate({**fields, "tasks": (TASK,), **changes})


def test_fewer_bits_are_a_gain_in_words_of_the_unit():
    one = result(target=ROW | {"p_adjusted": 0.002})
    one.judge(0.05)
    assert one.target.claim.verdict == "improves"
    assert one.target.claim.words == (
        "improves by 0.100 bits per byte (+0.100, 95 % interval +0.050 to +0.150, p = 0.002)"
    )
    assert one.target.as_result().score_b > one.target.as_result().score_a
    assert one.tasks[0].claim is None
    assert one.tasks[0].verdict.verdict == "improves"
    assert one.target.non_inferior is None
    assert [where for where, _ in one.comparisons()] == ["target", "tasks[math_text]"]


def test_non_inferiority_is_judged_at_half_of_the_level():
    row = ROW | {"non_inferiority": {"lower_bound": 0.01, "p_value": 0.03}}
    for level, shown in ((0.05, False), (0.1, True)):
        one = result(target=None, non_targets=row)
        one.judge(level)
        assert one.non_targets.non_inferior is shown


def test_an_interval_may_be_unknown():
    one = OutcomeDifference.model_validate(ROW | {"ci95": None, "mde80": None, "p_value": 1.0})
    one.judge(Levels(0.05, 0.02))
    assert "no interval" in one.verdict.words
    assert one.verdict.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"target": ROW | {"gain": -0.1}}, "the gain is -0.1, and its levels give 0.1"),
     ({"target": ROW | {"n": 19}}, "20 items of tasks, and 19 together"),
     ({"outcome": "score"}, "outcome"), ({"tasks": ()}, "tasks"),
     ({"target": ROW | {"ci95": (0.2, 0.1)}}, "before it begins")],
)  # fmt: skip
def test_a_result_that_contradicts_itself_is_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        result(**changes)
