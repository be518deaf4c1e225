"""Continuous outcomes: log-probabilities of right options, and the likelihood of whole texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ..cards import OutcomeName
from ..errors import UserError
from .items import Item
from .language_model import ASKED_TASKS, Advance, LanguageModel, unwatched
from .loading import LoadedTask
from .opening import task_code
from .scoring import ScoredAnswer, answer_tasks, judge, score_tasks

Floats = NDArray[np.float64]


def gold_logprob(
    likelihoods: Sequence[float], options: Sequence[str], rights: Sequence[int], metric: str
) -> float:
    """Compute the log-probability of the right option among an item's options.

    It is log softmax over the options' log-likelihoods; for the metric `acc_norm` each is divided
    by its option's length first, as in that metric, so that an item scores 1 where its right option
    is the most probable. Several right options have the sum of their probabilities.

    Args:
        likelihoods: the log-likelihood of each option, in nats.
        options: the options' texts. lm-eval's `acc_norm` counts their characters.
        rights: the indices of the right options, at least one.
        metric: the task's metric.

    Returns:
        The log-probability, in nats, at most 0.
    """
    values = np.asarray(likelihoods, dtype=np.float64)[: len(options)]
    if metric == "acc_norm":
        values = values / np.array([float(len(option)) for option in options])
    shares = values - logsumexp(values)
    return min(0.0, float(logsumexp(shares[list(rights)])))


def item_gold_logprob(item: Item, likelihoods: Sequence[float], metric: str) -> float | None:
    """Return the log-probability of an item's right option; None where the item has no options.

    Raises:
        UserError: no right option is among the item's options, or a log-likelihood is not finite.
    """
    if not item.options:
        return None
    if not item.rights:
        raise UserError(
            f"item {item.id}: its right answer {item.gold!r:.60} is none of its options, so it has "
            "no log-probability; mend the task's doc_to_target"
        )
    value = gold_logprob(likelihoods, item.options, item.rights, metric)
    if not math.isfinite(value):
        raise UserError(
            f"item {item.id}: the log-probability of its right option is {value}; no figure can "
            "be computed from it: take a wider dtype, such as float32"
        )
    return value


def has_gold_logprob(task: LoadedTask) -> bool:
    """Return whether a task's options are scored, so that the right ones have a probability."""
    return task.task.OUTPUT_TYPE == "multiple_choice"


def check_outcome(tasks: Sequence[LoadedTask], outcome: OutcomeName) -> None:
    """Check that every item of the tasks has a primary outcome.

    Raises:
        UserError: a task has another kind of answers.
    """
    lacking = [one.card.name for one in tasks if not (one.card.is_text or has_gold_logprob(one))]
    if outcome == "gold_logprob" and lacking:
        raise UserError(
            f"outcome: gold_logprob needs options, and task {', '.join(lacking)} generates its "
            "answers; take `outcome: score`, or a suite without it"
        )


def outcome_values(
    lm: LanguageModel,
    tasks: Sequence[LoadedTask],
    outcome: OutcomeName,
    remembered: Path | None = None,
    advance: Advance = unwatched,
) -> dict[str, Floats]:
    """Compute the outcome of every item, more is better: task name -> [items].

    See `score_tasks` for the other arguments.

    Raises:
        UserError: an item has no such outcome.
    """
    if outcome == "score":
        return score_tasks(lm, tasks, remembered, advance)
    answers = answer_tasks(lm, tasks, remembered, advance)
    return {
        task.card.name: np.array(gold_logprobs(task, judge(task, given)), dtype=np.float64)
        for task, given in zip(tasks, answers, strict=True)
    }


def gold_logprobs(task: LoadedTask, judged: Sequence[Sequence[ScoredAnswer]]) -> list[float | None]:
    """Return the log-probability of each item's right option; None where there are no options.

    Raises:
        UserError: as `item_gold_logprob`.
    """
    if not has_gold_logprob(task):
        return [None] * len(task.items)
    likelihoods = ([value for value, _ in answers[0].results] for answers in judged)
    try:
        return [
            item_gold_logprob(item, values, task.card.metric)
            for item, values in zip(task.items, likelihoods, strict=True)
        ]
    except UserError as error:
        raise UserError(f"task {task.card.name!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class TextScore:
    """The likelihood of one text.

    Attributes:
        loglikelihood: natural logarithm.
        bytes: the number of bytes by which the task's metric divides.
        words: the number of words; None where the task does not count them.
    """

    loglikelihood: float
    bytes: int
    words: int | None


def score_texts(
    lm: LanguageModel, task: LoadedTask, advance: Advance = unwatched
) -> list[TextScore]:
    """Compute the likelihood of every text of a task, and count its bytes as lm-eval does.

    Raises:
        UserError: the task's file computes no bits per byte, or a text has no byte or no finite
            likelihood.
    """
    before = ASKED_TASKS.set((task.card.name,))
    try:
        texts = [request.args[0] for request in task.requests]
        values = lm.rolling_log_likelihoods(texts, advance)
    finally:
        ASKED_TASKS.reset(before)
    return list(_text_scores(task, values))


def _text_scores(task: LoadedTask, values: Sequence[float]) -> Iterator[TextScore]:
    for request, value in zip(task.requests, values, strict=True):
        with task_code(task.card):
            computed: dict[str, Any] = task.task.process_results(request.doc, [value])
        if "bits_per_byte" not in computed:
            raise UserError(
                f"task {task.card.name!r}: its file computes no metric bits_per_byte; add it to "
                "its metric_list"
            )
        likelihood, count = computed["bits_per_byte"]
        if not (math.isfinite(likelihood) and count > 0):
            raise UserError(
                f"task {task.card.name!r}: document {request.doc_id} has {count} bytes and the "
                f"log-likelihood {likelihood}; remove it from the data"
            )
        words = computed["word_perplexity"][1] if "word_perplexity" in computed else None
        yield TextScore(float(likelihood), int(count), words)


def bits_per_byte(loglikelihoods: Floats, counts: NDArray[np.int64] | Floats) -> float:
    """Compute lm-eval's `bits_per_byte`: minus all log-likelihood over all bytes, in bits."""
    return -float(loglikelihoods.sum()) / float(counts.sum()) / math.log(2)
