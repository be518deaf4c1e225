"""Texts computed whole: one sequence serves all continuations that end at its last logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..lm import Pair
from .next_tokens import Queries, pinned, score_queries


@dataclass(frozen=True, slots=True)
class WholeText:
    """One sequence to run, and the continuations that end at its last logits."""

    tokens: tuple[int, ...]
    continuations: tuple[tuple[int, tuple[int, ...]], ...]  # (request, continuation tokens)

    def __len__(self) -> int:
        return len(self.tokens)


def longest_first(forward: WholeText) -> tuple[int, tuple[int, ...]]:
    """Return the sort key that orders forwards by length, the longest first."""
    return -len(forward), forward.tokens


def plan_forwards(pairs: Sequence[Pair]) -> Iterator[WholeText]:
    """Join (context, continuation) pairs whose sequences are equal without the last token."""
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index, (context, continuation) in enumerate(pairs):
        groups[(*context, *continuation[:-1])].append((index, tuple(continuation)))
    for tokens, continuations in groups.items():
        yield WholeText(tokens, tuple(continuations))


@dataclass(frozen=True, slots=True)
class PreparedForwards:
    """Sequences as tensors on the CPU, [rows, longest], padded on the left.

    Attributes:
        ids: token ids.
        mask: 1 where there is a token, 0 where there is a pad.
        positions: the position of each token in its text.
        queries: the queries on all rows.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    queries: Queries


def prepare_forwards(batch: Sequence[WholeText], device: torch.device) -> PreparedForwards:
    """Pad sequences, the longest of which is the first; `device` is that of the model."""
    longest = len(batch[0])
    ids, mask = np.zeros((2, len(batch), longest), dtype=np.int64)
    for row, forward in enumerate(batch):
        ids[row, longest - len(forward) :] = forward.tokens
        mask[row, longest - len(forward) :] = 1
    queries = [
        (row * longest + longest - len(continuation) + offset, token, request)
        for row, forward in enumerate(batch)
        for request, continuation in forward.continuations
        for offset, token in enumerate(continuation)
    ]
    at, targets, requests = torch.tensor(queries, dtype=torch.long).unbind(1)
    return PreparedForwards(
        pinned(torch.from_numpy(ids), device),
        pinned(torch.from_numpy(mask), device),
        pinned(torch.from_numpy((mask.cumsum(-1) - 1).clip(min=0)), device),
        Queries.of(at, targets, requests, device),
    )


def score_forwards(model: PreTrainedModel, prepared: PreparedForwards) -> Tensor:
    """Compute the result of `score_queries` for all queries on some sequences."""
    ids, mask, positions, places = (
        tensor.to(model.device, non_blocking=True)
        for tensor in (
            prepared.ids, prepared.mask, prepared.positions, prepared.queries.places
        )
    )  # fmt: skip
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    logits = _logits(model, given, places)
    return score_queries(
        lambda some: logits[some], logits.shape[-1], prepared.queries, logits.device
    )


def _logits(model: PreTrainedModel, given: dict[str, Tensor], places: Tensor) -> Tensor:
    """Compute the logits after some tokens only, [tokens, vocabulary].

    The model itself calls its output head, so that it may scale logits in any way; the head sees
    only the states of these tokens.

    Args:
        model: the model.
        given: ids, mask and positions.
        places: the tokens, as in `Queries`.
    """

    def pick(_: object, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (states[0].flatten(0, 1)[places.to(states[0].device)][None], *states[1:])

    head = model.get_output_embeddings()
    with nullcontext() if head is None else head.register_forward_pre_hook(pick):
        logits: Tensor = model(**given, use_cache=False).logits.flatten(0, 1)
    return logits if len(logits) == len(places) else logits[places.to(logits.device)]
