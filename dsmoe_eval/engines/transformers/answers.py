"""Batches of answers, as large as the memory for keys and values allows.

A decoding step reads the weights once for all rows, so more rows cost little. Prompts may be longer
than one forward pass should be: they are then computed in parts.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from ...models.loading import LoadedModel
from ..requests import Answer, Request, Tokens
from .generate import generate
from .memory import in_halves
from .shared_prefix_forward import cache_argument, whole_text_needed

ROWS = {"cpu": 64}
"""Limit of answers per batch on a CPU; a choice, not a measured optimum."""
ROWS_ELSEWHERE = 256
SHARE = {"cpu": 8}
SHARE_ELSEWHERE = 2
"""Keys and values take at most this part of the memory that the weights leave."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, its index among those of a call, and the length of its prompt's header."""

    place: int
    request: Request
    header: int = 0

    def __len__(self) -> int:
        return len(self.request.prompt) - self.header

    def remembers(self) -> int:
        """Return the maximum number of tokens in the cache at the end of the answer."""
        return len(self.request.prompt) + self.request.limit

    def order(self) -> tuple[int, Tokens]:
        """Return the sort key that orders requests by length, the longest first."""
        return -len(self), self.request.prompt


class AnswerBatches:
    """The batches in which one model answers.

    Args:
        model: the model.

    Attributes:
        rows: limit of answers per batch; lowered where memory turns out to be short.
        splits: whether long prompts are computed in parts, one behind the other.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.rows = ROWS.get(model.device.type, ROWS_ELSEWHERE)
        self.splits = whole_text_needed(model) is None

    @functools.cached_property
    def room(self) -> int:
        """The number of tokens whose keys and values fit into memory, measured at first use."""
        return max(0, memory_for_answers(self._model)) // max(1, bytes_per_token(self._model))

    def run(
        self,
        asked: Sequence[Asked],
        batch_tokens: int,
        work: Callable[[Sequence[Asked]], list[Answer]],
    ) -> Iterator[tuple[Sequence[Asked], list[Answer]]]:
        """Answer requests in batches, a batch that does not fit into memory in halves.

        Args:
            asked: requests behind one header, the longest first.
            batch_tokens: limit of prompt tokens per forward pass; where prompts can be computed in
                parts, it does not limit the batch.
            work: answers a batch.
        """
        start = 0
        while start < len(asked):
            count = self._count(asked[start : start + self.rows], batch_tokens)
            largest = 0
            for part, answers in in_halves(asked[start : start + count], work, len):
                largest = max(largest, len(part))
                yield part, answers
            if largest < count:
                self.rows = largest
            start += count

    def _count(self, asked: Sequence[Asked], batch_tokens: int) -> int:
        """Return how many of these requests make a batch; all have room in `rows`."""
        count = min(len(asked), self.room // max(one.remembers() for one in asked))
        if asked[0].header or not self.splits:
            count = min(count, batch_tokens // len(asked[0]))
        return max(1, count)


def greedy_answers(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    limit: int,
    batch_tokens: int,
) -> list[tuple[int, ...]]:
    """Generate greedy completions, with the model's present weights and steering.

    Args:
        loaded: the model.
        prompts: token ids.
        limit: maximum number of tokens per answer; an end of text ends an answer and is part of it.
        batch_tokens: limit of prompt tokens per forward pass.
    """
    asked = [Asked(place, Request(tuple(ids), limit)) for place, ids in enumerate(prompts)]
    batches = AnswerBatches(loaded.model)
    room = batch_tokens if batches.splits else None

    def work(batch: Sequence[Asked]) -> list[Answer]:
        return generate(loaded, [one.request for one in batch], room=room)

    found: dict[int, tuple[int, ...]] = {}
    for batch, answers in batches.run(sorted(asked, key=Asked.order), batch_tokens, work):
        found |= {one.place: answer.tokens for one, answer in zip(batch, answers, strict=True)}
    return [found[place] for place in range(len(prompts))]


@torch.no_grad()
def bytes_per_token(model: PreTrainedModel) -> int:
    """Measure how many bytes of keys and values each token of a text needs, by two tokens."""
    cache = DynamicCache(config=model.config)
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    model(input_ids=ids, use_cache=True, **{cache_argument(model): cache})
    kept = [getattr(one, name, None) for one in cache.layers for name in ("keys", "values")]
    return int(sum(part.numel() * part.element_size() for part in kept if part is not None)) // 2


def memory_for_answers(model: PreTrainedModel) -> int:
    """Return the bytes that the keys and values of one batch may take.

    They are a part of what the weights leave of the devices' whole memory, not of what is free now:
    otherwise the batches, and in 16 bits the last digits, would depend on other programs.
    """
    weights = list(model.parameters())
    taken = sum(one.numel() * one.element_size() for one in weights)
    kind = model.device.type
    if kind == "cuda":
        devices = {one.device for one in weights if one.is_cuda}
        whole = sum(torch.cuda.get_device_properties(one).total_memory for one in devices)
    else:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(whole - taken) // SHARE.get(kind, SHARE_ELSEWHERE)
