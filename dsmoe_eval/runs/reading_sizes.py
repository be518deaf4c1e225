"""The sizes of what identification reads: texts, and for influence items with their answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ..tasks.identification import domain_texts
from ..tasks.items import WithItems
from ..tasks.loading import LoadedTask

CHARACTERS_A_TOKEN = 4
"""The characters per token of English text; prompts are so counted, since tokenizers differ."""


def reading_sizes(tasks: Mapping[str, WithItems], influence: bool) -> dict[str, int]:
    """Count texts and tokens of identification, by the names of `CostEstimate`."""
    texts = [one for texts in domain_texts(tasks).values() for one in texts]
    answered = [*tasks.values()] if influence else []
    return {
        "identification_texts": len(texts),
        "identification_tokens": _tokens_of(texts),
        "influence_items": sum(len(task.items) for task in answered),
        "influence_tokens": sum(map(_answered_tokens, answered)),
    }


def _answered_tokens(task: WithItems) -> int:
    """Count the tokens of a task's items with their options, or with their right answers."""
    if not isinstance(task, LoadedTask):
        return _tokens_of(item.question for item in task.items)
    if task.task.OUTPUT_TYPE == "multiple_choice":
        return _tokens_of("".join(map(str, one.args[:2])) for one in task.requests)
    return _tokens_of(item.question + item.gold for item in task.items)


def _tokens_of(texts: Iterable[str]) -> int:
    return sum(math.ceil(len(one) / CHARACTERS_A_TOKEN) for one in texts)
