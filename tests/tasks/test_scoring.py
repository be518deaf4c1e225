"""Answers judged by lm-eval's filters and metrics, as its own evaluator judges them."""

import dataclasses

import numpy as np
import pytest
from lm_eval.evaluator import evaluate

from dsmoe_eval.engines.transformers.lm import TransformersLM
from dsmoe_eval.errors import UserError
from dsmoe_eval.models import load_model
from dsmoe_eval.models.prompt_format import PromptFormat
from dsmoe_eval.registry import load_suite
from dsmoe_eval.tasks.language_model import Completion
from dsmoe_eval.tasks.loading import in_format, load_tasks, quiet_lm_eval
from dsmoe_eval.tasks.scoring import (
    INVALID,
    _is_invalid,
    answer_tasks,
    as_binary,
    item_scores,
    judge,
    judge_response,
    score_tasks,
)

SUITE = load_suite("lab")
SUMS = SUITE.task("lab_arithmetic")
TEMPLATE = "{% for m in messages %}In {{ m.role }} law, {{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def test_split():
    return load_tasks(SUITE, SUITE.tasks, "test", 30)


@pytest.fixture(scope="module")
def lm():
    return TransformersLM(load_model("lab-poly", "cpu"), 2048)


def evaluated(lm, tasks):
    """What lm-eval's own evaluator gives: task name -> its samples, in the items' order."""
    with quiet_lm_eval():
        found = evaluate(
            lm,
            {"tasks": {task.card.name: task.task for task in tasks}},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=lm.uses_chat_template,
        )
    return {
        name: sorted(samples, key=lambda sample: sample["doc_id"])
        for name, samples in found["samples"].items()
    }


def hold_against_lm_eval(lm, tasks):
    """Ours, once they are lm-eval's: scores, prompts and answers of every item's first sample."""
    answers = answer_tasks(lm, tasks)
    theirs = evaluated(lm, tasks)
    found = {}
    for task, given in zip(tasks, answers, strict=True):
        judged, samples = judge(task, given), theirs[task.card.name]
        assert [s[task.card.metric] for s in samples] == [one[0].score for one in judged]
        assert [s["filtered_resps"] for s in samples] == [list(one[0].results) for one in judged]
        assert [s["doc_id"] for s in samples] == list(range(len(task.items)))
        texts = [one.args for one in task.requests]
        assert [args for s in samples for args in s["arguments"]] == texts
        found[task.card.name] = judged
    return found


def test_scores_are_those_of_lm_evals_own_evaluator(test_split, lm):
    tasks = list(test_split.values())
    judged = hold_against_lm_eval(lm, tasks)
    scores = score_tasks(lm, tasks)
    assert {name: item_scores(one).tolist() for name, one in judged.items()} == {
        name: values.tolist() for name, values in scores.items()
    }
    assert {task.task.OUTPUT_TYPE for task in tasks} == {"multiple_choice", "generate_until"}
    again = score_tasks(lm, tasks)
    assert all((again[name] == scores[name]).all() for name in scores)


def test_scores_are_lm_evals_in_a_chat_template_too(lm):
    loaded = load_model("lab-poly", "cpu")
    loaded.tokenizer.chat_template = TEMPLATE
    chatting = TransformersLM(loaded, 2048, PromptFormat(chat=True))
    tasks = [
        in_format(task, chatting) for task in load_tasks(SUITE, SUITE.tasks, "test", 12).values()
    ]
    judged = hold_against_lm_eval(chatting, tasks)
    assert all(
        request.args[0].startswith("In user law, ") for task in tasks for request in task.requests
    )
    plain = answer_tasks(lm, list(load_tasks(SUITE, [SUMS], "test", 12).values()))
    assert plain[0] != [[one.text for one in samples] for samples in judged["lab_arithmetic"]]


def test_samples_differ_and_are_scored_one_by_one(lm):
    card = SUMS.model_copy(update={"samples": 4, "temperature": 1.5})
    task = load_tasks(SUITE, [card], "test", 12)[card.name]
    (lean,) = score_tasks(lm, [task]).values()
    judged = hold_against_lm_eval(lm, [task])[card.name]
    assert item_scores(judged).tolist() == lean.tolist()
    assert {len(samples) for samples in judged} == {4}
    assert any(len({one.text for one in samples}) > 1 for samples in judged)
    resps = [sample["resps"][0] for sample in evaluated(lm, [task])[card.name]]
    assert resps == [[one.text for one in samples] for samples in judged]
    assert set(lean * 4) <= {0, 1, 2, 3, 4}
    assert set(lean) - {0.0, 1.0}, "at this temperature some sums are right now and then"
    hot = TransformersLM(lm.loaded, 64)  # other batches, the same draws
    assert score_tasks(hot, [task])[card.name].tolist() == lean.tolist()
    other = TransformersLM(lm.loaded, 64, seed=1)
    assert score_tasks(other, [task])[card.name].tolist() != lean.tolist()


def test_an_answer_is_judged_with_what_it_took(test_split):
    task = test_split["lab_arithmetic"]
    right = task.items[0].gold
    answers = [[Completion(f" {right}", 3, True)] for _ in task.requests]
    judged = judge(task, answers)
    assert judged[0][0].score == 1.0
    assert (judged[0][0].tokens, judged[0][0].truncated, judged[0][0].invalid) == (3, True, False)
    answers[1] = [Completion(" ", 8, False)]
    assert judge(task, answers)[1][0].invalid
    answers[2] = []
    with pytest.raises(UserError, match="not every item has 1 answers"):
        judge(task, answers)
    assert judge_response(task, task.requests[0], f" {right}").score == 1.0
    assert judge_response(task, task.requests[0], "none").score == 0.0


def test_a_text_alone_is_no_answer_since_its_tokens_are_lost(test_split, lm, monkeypatch):
    monkeypatch.setattr(lm, "complete", lambda prompts, *_: [" 1" for _ in prompts])
    task = test_split["lab_arithmetic"]
    (answers,) = answer_tasks(lm, [task])
    with pytest.raises(AttributeError, match="'str' object has no attribute"):
        judge(task, answers)


def test_a_task_of_another_kind_is_refused(test_split, lm):
    task = test_split["lab_arithmetic"]
    rolling = dataclasses.replace(task)
    vars(rolling)["requests"] = [
        dataclasses.replace(one, request_type="loglikelihood_rolling") for one in task.requests
    ]
    with pytest.raises(UserError, match="asks for loglikelihood_rolling"):
        score_tasks(lm, [rolling])


def test_the_default_filter_is_passed_by_and_no_other(test_split, lm):
    tasks = list(test_split.values())
    passed_by = {task.card.name for task in tasks if task.keeps_responses}
    assert passed_by == {card.name for card in SUITE.tasks} - {"lab_arithmetic"}
    task = tasks[0]
    (answers,) = answer_tasks(lm, [task])
    filtered = dataclasses.replace(task)
    vars(filtered)["keeps_responses"] = False
    assert judge(filtered, answers) == judge(task, answers)


def test_scores_that_are_remembered_are_the_metric_s(test_split):
    chance = np.random.default_rng(0)
    scored = [task for task in test_split.values() if task.likeliest_decides]
    assert {task.card.name for task in scored} == {c.name for c in SUITE.tasks if c.metric == "acc"}
    for task in scored:
        fresh, drawn = dataclasses.replace(task), []
        for _ in range(3):
            values = np.round(chance.normal(size=len(task.requests)), 1)  # with ties
            answers = [[(float(value), False)] for value in values]
            judged = judge(fresh, answers)
            by_metric = dataclasses.replace(task)
            vars(by_metric)["likeliest_decides"] = False
            assert judged == judge(by_metric, answers)
            drawn += [one[0].score for one in judged]
        assert 0 < np.mean(drawn) < 1
        assert len(fresh.known_scores) <= sum(len(item.options) for item in task.items)


def test_a_metric_that_weighs_options_is_computed_each_time(test_split):
    task = next(task for task in test_split.values() if task.card.metric == "acc")
    card = task.card.model_copy(update={"metric": "acc_norm"})
    assert not dataclasses.replace(task, card=card).likeliest_decides


def test_of_several_filters_the_card_names_one(test_split):
    task = test_split["lab_arithmetic"]
    first = task.task._filters[0]
    other = dataclasses.replace(first, name="other")
    vars(task.task)["_filters"] = [first, other]
    try:
        with pytest.raises(UserError, match="name one of its filters in the suite: strip, other"):
            dataclasses.replace(task).filters  # noqa: B018 - asked for its error
        named = dataclasses.replace(task, card=SUMS.model_copy(update={"filter": "other"}))
        assert named.filters is other
    finally:
        vars(task.task)["_filters"] = [first]


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
    assert _is_invalid(SUMS.model_copy(update={"answer_pattern": valid}), text, found) == invalid


def test_a_metric_that_is_not_binary_is_refused():
    assert [as_binary(score, SUMS) for score in (1.0, 0, True, np.int64(1))] == [1, 0, 1, 1]
    with pytest.raises(UserError, match=r"is 0\.5, not 0 or 1"):
        as_binary(0.5, SUMS)
