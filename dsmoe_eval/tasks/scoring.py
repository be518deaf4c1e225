"""What lm-eval's filters and metrics make of an LM's answers, sample by sample."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cards import Task
from ..errors import UserError
from .loading import LoadedTask

INVALID = "[invalid]"
"""What lm-eval's filters give where they find no answer."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to an item.

    Attributes:
        results: what the task's filter left of the response to each of the item's requests: one
            text, or (log-likelihood, is greedy) of each option.
        score: the task's metric, 0 or 1.
        text: as generated; None where options were scored.
        tokens: generated, thinking included; 0 where options were scored.
        truncated: whether its limit ended it.
        invalid: whether no answer was found in it, by the task's filter or its card's `valid`.
    """

    results: tuple[Any, ...]
    score: float
    text: str | None = None
    tokens: int = 0
    truncated: bool = False
    invalid: bool = False


def score_tasks(lm: Any, tasks: Sequence[LoadedTask]) -> dict[str, NDArray[np.float64]]:
    """Item scores, by lm-eval's own metrics, all tasks in common batches; means over samples.

    The lean path for tuning, where the same questions are asked many times; `cells.py` has
    lm-eval run the test split itself. Both give the same scores.
    """
    requests: dict[str, list[Any]] = {}
    for task in tasks:
        for request in task.task.instances:
            request.resps, request.filtered_resps = [], {}
            requests.setdefault(request.request_type, []).extend([request] * task.card.samples)
    for kind, members in requests.items():
        for request, answer in zip(members, getattr(lm, kind)(members), strict=True):
            request.resps.append(answer)
    return {task.card.name: item_scores(judge(task)) for task in tasks}


def item_scores(judged: Sequence[Sequence[Judged]]) -> NDArray[np.float64]:
    """Of each item the mean over its samples."""
    return np.array([np.mean([one.score for one in samples]) for samples in judged], dtype=float)


def judge(task: LoadedTask) -> list[tuple[Judged, ...]]:
    """Judge the responses that the task's requests hold: of each item, every sample.

    Raises:
        UserError: an item was not answered as often as its task's card says, or the metric is not 0
            or 1.
    """
    requests = sorted(task.task.instances, key=lambda request: (request.doc_id, request.idx))
    if {len(request.resps) for request in requests} != {task.card.samples}:
        raise UserError(f"task {task.card.name!r}: not every item has {task.card.samples} answers")
    rounds = [_judge_once(task, requests, sample) for sample in range(task.card.samples)]
    return list(zip(*rounds, strict=True))


def judge_response(task: LoadedTask, request: Any, response: str) -> Judged:
    """Judge one response to an item that is one request."""
    own = copy.copy(request)
    own.resps = [response]
    (judged,) = _judge_once(task, [own], 0)
    return judged


def _judge_once(task: LoadedTask, requests: Sequence[Any], sample: int) -> list[Judged]:
    own = [copy.copy(request) for request in requests]
    for copied, request in zip(own, requests, strict=True):
        copied.resps, copied.filtered_resps = [request.resps[sample]], {}
    ensembles = task.task._filters
    for ensemble in ensembles:
        if ensemble.name == (task.card.filter or ensembles[0].name):
            ensemble.apply(own)
    by_document: dict[int, list[Any]] = {}
    for request in own:
        by_document.setdefault(request.doc_id, []).append(request)
    return [_judged(task, members) for members in by_document.values()]


def _judged(task: LoadedTask, requests: Sequence[Any]) -> Judged:
    results = [next(iter(request.filtered_resps.values())) for request in requests]
    score = task.task.process_results(requests[0].doc, results)[task.card.metric]
    score = as_binary(score, task.card)
    if task.task.OUTPUT_TYPE != "generate_until":
        return Judged(tuple(results), score)
    (response,) = requests[0].resps
    return Judged(
        results=tuple(results),
        score=score,
        text=str(response),
        tokens=getattr(response, "tokens", 0),
        truncated=getattr(response, "truncated", False),
        invalid=_is_invalid(task.card, str(response), results[0]),
    )


def _is_invalid(card: Task, text: str, found: Any) -> bool:
    if not text.strip() or found == INVALID or not str(found).strip():
        return True
    return card.valid is not None and re.search(card.valid, text) is None


def as_binary(score: Any, card: Task) -> float:
    """A score as 0.0 or 1.0.

    Raises:
        UserError: the metric gives anything else.
    """
    if float(score) not in (0.0, 1.0):
        raise UserError(f"task {card.name!r}: metric {card.metric!r} is not 0 or 1 on every item")
    return float(score)
