"""Texts computed whole: one sequence serves all continuations that end at its last logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lm import Pair


@dataclass(frozen=True, slots=True)
class Forward:
    """One sequence to run, and the continuations that end at its last logits."""

    tokens: tuple[int, ...]
    continuations: tuple[tuple[int, tuple[int, ...]], ...]  # (request, continuation tokens)
    kept: int  # logits needed, counted from the end

    def __len__(self) -> int:
        return len(self.tokens)


def longest_first(forward: Forward) -> tuple[int, tuple[int, ...]]:
    """Return the sort key that orders forwards by length, the longest first."""
    return -len(forward), forward.tokens


def plan_forwards(pairs: Sequence[Pair]) -> Iterator[Forward]:
    """Join (context, continuation) pairs whose sequences are equal without the last token."""
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index, (context, continuation) in enumerate(pairs):
        groups[(*context, *continuation[:-1])].append((index, tuple(continuation)))
    for tokens, continuations in groups.items():
        kept = max(len(continuation) for _, continuation in continuations)
        yield Forward(tokens, tuple(continuations), kept)


def wanted_places(batch: Sequence[Forward], kept: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the indices of the continuations' tokens in a batch's last `kept` positions.

    Returns:
        Four vectors of one length: the request, its row, the position, and the token to be scored.
    """
    places = [
        (request, row, kept - len(continuation) + offset, token)
        for row, forward in enumerate(batch)
        for request, continuation in forward.continuations
        for offset, token in enumerate(continuation)
    ]
    request, row, position, token = torch.tensor(places, dtype=torch.long).unbind(1)
    return request, row, position, token


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log-probabilities in float32 over the last dimension of logits.

    On a CPU torch's `log_softmax` is off by 5e-6 per token where the vocabulary has 50,000 tokens,
    always in one direction, so that a text's error grows with its length; `logsumexp` is not.
    """
    precise = logits.float()
    return precise - precise.logsumexp(-1, keepdim=True)
