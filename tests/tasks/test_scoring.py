"""Answers judged by lm-eval's filters and metrics, on both paths, sample by sample."""

import numpy as np
import pytest

from dsmoe_eval.engines.requests import Completion
from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.cells import _evaluate
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.scoring import (
    INVALID,
    _is_invalid,
    as_binary,
    item_scores,
    judge,
    judge_response,
    score_tasks,
)

SUITE = load_suite("lab")
SUMS = SUITE.task("lab_arithmetic")


@pytest.fixture(scope="module")
def test_split():
    return load_tasks(SUITE, SUITE.tasks, "test", 30)


@pytest.fixture(scope="module")
def lm():
    return TransformersLM(load_model("lab-poly", "cpu"), 2048)


def test_the_lean_path_scores_as_lm_eval_does(test_split, lm):
    lean = score_tasks(lm, list(test_split.values()))
    for name, task in test_split.items():
        assert item_scores(_evaluate(lm, task)).tolist() == lean[name].tolist()
    again = score_tasks(lm, list(test_split.values()))
    assert all((again[name] == lean[name]).all() for name in lean)


def test_samples_differ_and_are_scored_one_by_one_on_both_paths(lm):
    card = SUMS.model_copy(update={"samples": 4, "temperature": 1.5})
    task = load_tasks(SUITE, [card], "test", 12)[card.name]
    (lean,) = score_tasks(lm, [task]).values()
    judged = _evaluate(lm, task)
    assert item_scores(judged).tolist() == lean.tolist()
    assert {len(samples) for samples in judged} == {4}
    assert any(len({one.text for one in samples}) > 1 for samples in judged)
    assert set(lean * 4) <= {0, 1, 2, 3, 4}
    assert set(lean) - {0.0, 1.0}, "at this temperature some sums are right now and then"
    hot = TransformersLM(lm.loaded, 64)  # other batches, the same draws
    assert score_tasks(hot, [task])[card.name].tolist() == lean.tolist()
    hot.seed = 1
    assert score_tasks(hot, [task])[card.name].tolist() != lean.tolist()


def test_an_answer_is_judged_with_what_it_took(test_split):
    task = test_split["lab_arithmetic"]
    right = task.items[0].gold
    requests = task.task.instances
    for request in requests:
        request.resps = [Completion(f" {right}", 3, True)]
    judged = judge(task)
    assert judged[0][0].score == 1.0
    assert (judged[0][0].tokens, judged[0][0].truncated, judged[0][0].invalid) == (3, True, False)
    requests[1].resps = [Completion(" ", 8, False)]
    assert judge(task)[1][0].invalid
    requests[2].resps = []
    with pytest.raises(UserError, match="not every item has 1 answers"):
        judge(task)
    assert judge_response(task, requests[0], f" {right}").score == 1.0
    assert judge_response(task, requests[0], "none").score == 0.0


@pytest.mark.parametrize(
    ("text", "found", "valid", "invalid"),
    [
        ("so the answer is (A)", "A", None, False),
        ("I do not know", INVALID, None, True),
        (" \n", "", None, True),
        ("so 204", "so 204", r"\\boxed|\$", True),
        (r"so \boxed{204}", r"so \boxed{204}", r"\\boxed|\$", False),
    ],
)
def test_an_answer_is_invalid_where_none_was_found(text, found, valid, invalid):
    assert _is_invalid(SUMS.model_copy(update={"valid": valid}), text, found) == invalid


def test_a_metric_that_is_not_binary_is_refused():
    assert [as_binary(score, SUMS) for score in (1.0, 0, True, np.int64(1))] == [1, 0, 1, 1]
    with pytest.raises(UserError, match="is not 0 or 1"):
        as_binary(0.5, SUMS)
