"""Scores of an LM's answers by lm-eval's filters and metrics, for every sample."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cards import Task
from ..errors import UserError
from .language_model import (
    ASKED_TASKS,
    Advance,
    Completion,
    GenerationSettings,
    LanguageModel,
    LogLikelihood,
    TaskRequest,
    unwatched,
)
from .loading import LoadedTask
from .opening import task_code

INVALID = "[invalid]"
"""The result of lm-eval's filters if a response has no answer."""
Answer = TypeVar("Answer", Completion, LogLikelihood)
Answers = Sequence[Sequence[Completion | LogLikelihood]]
"""Answers to each request of a task, in order: one per sample."""


@dataclass(frozen=True, slots=True)
class AnswerVerdict:
    """A task's judgement of one answer to an item.

    Attributes:
        results: the filtered response to each of the item's requests: one text, or
            (log-likelihood, is greedy) of each option.
        score: the task's metric, 0 or 1.
        invalid: whether the response has no answer by the task's filter or its `answer_pattern`.
    """

    results: tuple[Any, ...]
    score: float
    invalid: bool = False


@dataclass(frozen=True, slots=True)
class ScoredAnswer(AnswerVerdict):
    """One answer to an item with its text and length.

    Attributes:
        text: the generated text; None if options were scored.
        tokens: number of generated tokens, thinking included; 0 if options were scored.
        truncated: whether the answer ended at its limit of tokens.
    """

    text: str | None = None
    tokens: int = 0
    truncated: bool = False


@dataclass(slots=True)
class _Responded:
    """A request with one response, from which lm-eval's filters read and to which they write."""

    doc: Mapping[str, object]
    resps: list[str | LogLikelihood]
    filtered_resps: dict[str, object] = field(default_factory=dict)


def score_tasks(
    lm: LanguageModel,
    tasks: Sequence[LoadedTask],
    remembered: Path | None = None,
    advance: Advance = unwatched,
) -> dict[str, NDArray[np.float64]]:
    """Score items by lm-eval's metrics, all tasks in common batches; return means over samples.

    Args:
        lm: a steered, adapted or base model.
        tasks: the tasks whose requests are sent.
        remembered: as in `LanguageModel.complete`.
        advance: called with the number of requests just answered.

    Returns:
        Task name -> [items].
    """
    answers = answer_tasks(lm, tasks, remembered, advance)
    return {
        task.card.name: item_scores(judge(task, given))
        for task, given in zip(tasks, answers, strict=True)
    }


def answer_tasks(
    lm: LanguageModel,
    tasks: Sequence[LoadedTask],
    remembered: Path | None = None,
    advance: Advance = unwatched,
) -> list[Answers]:
    """Answer the requests of tasks by an LM, with the cards' number of samples.

    See `score_tasks` for the arguments.

    Raises:
        UserError: a task needs something else than scored options or generated answers.
    """
    generated: list[tuple[str, GenerationSettings]] = []
    scored: list[tuple[str, str]] = []
    for task in tasks:
        if _generates(task):
            generated += _repeated(task)
        else:
            scored += _repeated(task)
    before = ASKED_TASKS.set(tuple(task.card.name for task in tasks))
    try:
        completions = iter(lm.complete(generated, remembered, advance) if generated else ())
        likelihoods = iter(lm.log_likelihoods(scored, advance) if scored else ())
    finally:
        ASKED_TASKS.reset(before)
    return [
        _take(task, completions) if _generates(task) else _take(task, likelihoods) for task in tasks
    ]


def _repeated(task: LoadedTask) -> list[Any]:
    """Repeat the arguments of lm-eval's requests once per sample."""
    return [request.args for request in task.requests for _ in range(task.card.samples)]


def _take(task: LoadedTask, answers: Iterator[Answer]) -> list[list[Answer]]:
    return [[next(answers) for _ in range(task.card.samples)] for _ in task.requests]


def _generates(task: LoadedTask) -> bool:
    kinds = {request.request_type for request in task.requests}
    if kinds <= {"generate_until"}:
        return True
    if kinds == {"loglikelihood"}:
        return False
    raise UserError(
        f"task {task.card.name!r} asks for {', '.join(sorted(kinds))}; a suite's tasks score "
        "options or generate answers, or have the role text: leave it out"
    )


def item_scores(judged: Sequence[Sequence[ScoredAnswer]]) -> NDArray[np.float64]:
    """Return the mean over each item's samples, [items]."""
    scores = np.array([[one.score for one in samples] for samples in judged])
    mean: NDArray[np.float64] = scores.mean(axis=1)
    return mean


def judge(task: LoadedTask, answers: Answers) -> list[tuple[ScoredAnswer, ...]]:
    """Judge the answers to a task's requests: every sample of each item.

    Raises:
        UserError: the number of answers to an item is not the card's number of samples, or the
            metric is not 0 or 1.
    """
    if {len(given) for given in answers} != {task.card.samples}:
        raise UserError(f"task {task.card.name!r}: not every item has {task.card.samples} answers")
    rounds = [
        _judge_once(task, [given[sample] for given in answers])
        for sample in range(task.card.samples)
    ]
    return list(zip(*rounds, strict=True))


def judge_response(task: LoadedTask, request: TaskRequest, response: str) -> AnswerVerdict:
    """Judge one generated text for an item with one request."""
    (verdict,) = _verdicts(task, [request], [response])
    return verdict


def _judge_once(
    task: LoadedTask, answers: Sequence[Completion | LogLikelihood]
) -> list[ScoredAnswer]:
    """Judge one answer to each of the task's requests."""
    responses = [one if isinstance(one, tuple) else one.text for one in answers]
    verdicts = _verdicts(task, task.requests, responses)
    firsts = (answers[start] for start in _items(task.requests))
    return [_judged(verdict, first) for verdict, first in zip(verdicts, firsts, strict=True)]


def _judged(verdict: AnswerVerdict, answer: Completion | LogLikelihood) -> ScoredAnswer:
    if isinstance(answer, tuple):
        return ScoredAnswer(verdict.results, verdict.score)
    return ScoredAnswer(
        verdict.results,
        verdict.score,
        verdict.invalid,
        answer.text,
        answer.tokens,
        answer.truncated,
    )


def _verdicts(
    task: LoadedTask, requests: Sequence[TaskRequest], responses: Sequence[str | LogLikelihood]
) -> list[AnswerVerdict]:
    """Judge the items of requests with one response each; an item's requests are adjacent."""
    left = responses if task.keeps_responses else _filtered(task, requests, responses)
    bounds = _items(requests)
    return [
        _verdict(task, requests[start], list(left[start:end]), responses[start])
        for start, end in zip(bounds, [*bounds[1:], len(requests)], strict=True)
    ]


def _filtered(
    task: LoadedTask, requests: Sequence[TaskRequest], responses: Sequence[str | LogLikelihood]
) -> list[object]:
    responded = [
        _Responded(request.doc, [response])
        for request, response in zip(requests, responses, strict=True)
    ]
    task.filters.apply(responded)
    return [one.filtered_resps[task.filters.name] for one in responded]


def _items(requests: Sequence[TaskRequest]) -> list[int]:
    """Return the index of each item's first request."""
    owners = [request.doc_id for request in requests]
    return [place for place, owner in enumerate(owners) if not place or owner != owners[place - 1]]


def _verdict(
    task: LoadedTask, request: TaskRequest, results: list[Any], response: object
) -> AnswerVerdict:
    score = _score(task, request, results)
    invalid = isinstance(response, str) and _is_invalid(task.card, response, results[0])
    return AnswerVerdict(tuple(results), score, invalid)


def _score(task: LoadedTask, request: TaskRequest, results: list[Any]) -> float:
    """Compute the task's metric, once for each item and option where that alone decides."""
    options = len(task.items[request.doc_id].options)
    if not task.likeliest_decides or len(results) != options:
        return _metric(task, request, results)
    key = request.doc_id, int(np.argmax([value for value, _greedy in results]))
    if key not in task.known_scores:
        task.known_scores[key] = _metric(task, request, results)
    return task.known_scores[key]


def _metric(task: LoadedTask, request: TaskRequest, results: list[Any]) -> float:
    with task_code(task.card):
        values = task.task.process_results(request.doc, results)
    if task.card.metric not in values:
        raise UserError(
            f"task {task.card.name!r}: its file computes no metric {task.card.metric!r}; name one "
            f"of {', '.join(map(str, values))} as `metric` in the suite"
        )
    return as_binary(values[task.card.metric], task.card)


def _is_invalid(card: Task, text: str, found: object) -> bool:
    if not text.strip() or found == INVALID or not str(found).strip():
        return True
    return card.answer_pattern is not None and re.search(card.answer_pattern, text) is None


def as_binary(score: SupportsFloat, card: Task) -> float:
    """Return a score as 0.0 or 1.0.

    Raises:
        UserError: the metric gives another value.
    """
    value = float(score)
    if value not in (0.0, 1.0):
        raise UserError(
            f"task {card.name!r}: metric {card.metric!r} is {value:g}, not 0 or 1, on an item; "
            "name another `metric` in the suite"
        )
    return value
