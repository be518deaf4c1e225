"""Outcomes that follow from the log-likelihoods of lm-eval's samples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np

from ...errors import UserError
from ...tasks.outcomes import gold_logprob
from .files import Record

GOLD_METRICS = {"gold_logprob": "acc", "gold_logprob_norm": "acc_norm"}
"""Name of an outcome -> the metric of lm-eval by which options' log-likelihoods are compared."""
BITS = "bits_per_byte"


def sample_gold_logprob(
    sample: Record, prompt: object, options: Sequence[str], outcome: str, where: str
) -> float:
    """Compute the log-probability of the right option of a sample of a multiple-choice task.

    Raises:
        UserError: the sample holds no log-likelihood of each option, or names no right one, or its
            accuracy does not follow from them.
    """
    values = _likelihoods(sample.get("filtered_resps"))
    rights = _rights(sample.get("target"), options)
    if not isinstance(prompt, str) or len(options) < 2 or len(values) != len(options):
        raise UserError(
            f"{where}: holds no log-likelihood of each option after one prompt, so it has no "
            f"{outcome}; choose a task that scores options"
        )
    if not rights:
        raise UserError(
            f"{where}: target {str(sample.get('target'))[:60]!r} names none of the "
            f"{len(options)} options; name another --metric"
        )
    metric = GOLD_METRICS[outcome]
    lengths = np.array([float(len(option)) for option in options])
    likeliest = int(np.argmax(values / lengths if metric == "acc_norm" else values))
    said = sample.get(metric)
    if isinstance(said, int | float) and float(said) != float(likeliest in rights):
        raise UserError(
            f"{where}: {metric} is {said}, which does not follow from its log-likelihoods and "
            "options; name another --metric"
        )
    return gold_logprob(list(values), options, rights, metric)


def _likelihoods(responses: object) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the first number of each response, which lm-eval may write as text."""
    pairs = responses if isinstance(responses, list) else []
    try:
        return np.array([float(pair[0]) for pair in pairs], dtype=np.float64)
    except (TypeError, ValueError, LookupError):
        return np.array([], dtype=np.float64)


def _rights(target: object, options: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of the right options, which a target names by number or text."""
    if isinstance(target, str) and target.startswith("["):
        try:
            target = json.loads(target)
        except ValueError:
            return ()
    named = target if isinstance(target, list) else [target]
    found = []
    for one in named:
        if isinstance(one, str) and one.isdecimal() and one not in options:
            one = int(one)
        if isinstance(one, str):
            one = options.index(one.strip()) if options.count(one.strip()) == 1 else -1
        if not isinstance(one, int) or not 0 <= one < len(options):
            return ()
        found.append(one)
    return tuple(sorted(set(found)))


def sample_bits(sample: Record, where: str) -> tuple[float, float]:
    """Return the bits that a text needs, of which fewer are better, and its bytes.

    Raises:
        UserError: the sample is of no task of whole texts.
    """
    value = sample.get(BITS)
    if not (isinstance(value, list) and len(value) == 2):
        raise UserError(
            f"{where}: {BITS} is {str(value)[:60]}, not a log-likelihood and a number of bytes; "
            "choose a task of whole texts (loglikelihood_rolling)"
        )
    likelihood, count = (float(part) for part in value)
    if not (math.isfinite(likelihood) and count > 0):
        raise UserError(
            f"{where}: a text of {count:g} bytes with log-likelihood {likelihood:g}; remove the "
            "line, or run lm-eval again"
        )
    return -likelihood / math.log(2), count
