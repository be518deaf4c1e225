"""What a task's items give without a model: by guessing, and by one answer to all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pandas as pd

_NO_GOLD = frozenset({"prompt_level_strict_acc"})
"""Metrics that judge a text by rules, so that an item has no right answer."""
COLUMNS = ("options", "gold")
"""The columns of a cell's rows that the floors follow from."""


def chance(rows: pd.DataFrame) -> float | None:
    """Return the expected score of choosing an option at random: the mean of 1 / options.

    Args:
        rows: one row per item, with the columns `COLUMNS`.

    Returns:
        None where answers are generated, which cannot be guessed from a list.
    """
    counts = rows["options"].str.len()
    return float((1 / counts).mean()) if counts.gt(0).all() else None


def constant(rows: pd.DataFrame, metric: str) -> float | None:
    """Return the best score that one answer to all items gets.

    Of options this is the same position in every item, or the same text where it is an option,
    whichever is right more often; of generated answers it is the most frequent gold text.

    Args:
        rows: one row per item, with the columns `COLUMNS`.
        metric: the metric of the scores.

    Returns:
        None where the items have no gold answer.
    """
    golds = [str(gold) for gold in rows["gold"]]
    if metric in _NO_GOLD or not any(gold.strip() for gold in golds):
        return None
    options = [list(own) for own in rows["options"]]
    positions = [own.index(gold) for own, gold in zip(options, golds, strict=True) if gold in own]
    return max(_most(golds), _most(positions)) / len(golds)


def _most(answers: Iterable[object]) -> int:
    """Return how often the most frequent answer occurs; 0 where there is none."""
    return max(Counter(answers).values(), default=0)
