"""The model's own greedy answers, as tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .generation import Request, generate
from .loading import LoadedModel

TOKENS_A_BATCH = 8192


def greedy_answers(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    limit: int,
    advance: Callable[[int], None] = lambda _prompts: None,
) -> list[tuple[int, ...]]:
    """What the model, as it stands, goes on with: at most `limit` tokens, up to an end of text.

    Args:
        loaded: the model.
        prompts: token ids.
        limit: tokens of an answer; the end of text is the last of them where it comes.
        advance: told the number of prompts answered.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    start = 0
    while start < len(order):
        size = max(1, TOKENS_A_BATCH // (len(prompts[order[start]]) + limit))
        batch = order[start : start + size]
        given = generate(loaded, [Request(tuple(prompts[index]), limit) for index in batch])
        for index, answer in zip(batch, given, strict=True):
            answers[index] = answer.tokens
        advance(len(batch))
        start += size
    return answers
