"""The text that a carving is trained on, and the passages on which it is measured.

Of the documents of each domain, those whose index is 0, 1 or 2 modulo 5 are trained on, and those
that are 4 are measured; 3 are left for identification and tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError

PASSAGES = 4
"""The most passages per domain."""
_INSIDE = slice(1500, 6000)
_AT_ONCE = 64

Texts = Mapping[str, Sequence[str]]
"""Domain -> its documents."""


class Tokenize(Protocol):
    """The part of a tokenizer that is needed here."""

    eos_token_id: int

    def __call__(self, text: list[str]) -> Mapping[str, list[list[int]]]:
        """Tokenize texts."""


def training_tokens(texts: Texts, tokenizer: Tokenize, length: int) -> Tensor:
    """Return the training documents, one after another, as sequences, [sequences, length].

    Raises:
        UserError: the text is shorter than one sequence.
    """
    kept = [
        text
        for documents in texts.values()
        for index, text in enumerate(documents)
        if index % 5 < 3
    ]
    stream = np.fromiter(_stream(kept, tokenizer), dtype=np.int64)
    whole = len(stream) // length
    if not whole:
        raise UserError(
            f"the text to train on has {len(stream):,} tokens, and one sequence has {length}; give "
            "more text"
        )
    return torch.from_numpy(stream[: whole * length].reshape(whole, length))


def _stream(texts: Sequence[str], tokenizer: Tokenize) -> Iterator[int]:
    for start in range(0, len(texts), _AT_ONCE):
        for ids in tokenizer(list(texts[start : start + _AT_ONCE]))["input_ids"]:
            yield from ids
            yield tokenizer.eos_token_id


def held_out(texts: Texts, tokenizer: Tokenize, length: int) -> dict[str, Tensor]:
    """Return each domain's passages: the first tokens after character 1,500 of a document.

    Returns:
        domain -> token ids, [passages, length]; a domain without one is left out.

    Raises:
        UserError: no domain has a passage.
    """
    passages = {}
    for domain, documents in texts.items():
        parts = [text[_INSIDE] for text in documents[4::5]]
        encoded = tokenizer(parts)["input_ids"] if parts else []
        long = [ids[:length] for ids in encoded if len(ids) >= length]
        if long:
            passages[domain] = torch.tensor(long[:PASSAGES])
    if not passages:
        raise UserError(
            "no document is left to measure on: every fifth document of a domain is not trained "
            f"on, and one of these needs {length} tokens in its characters {_INSIDE.start:,} to "
            f"{_INSIDE.stop:,}"
        )
    return passages


@torch.no_grad()
def passage_losses(
    model: nn.Module, passages: Mapping[str, Tensor], advance: Callable[[int], None]
) -> dict[str, float]:
    """Return each domain's mean cross-entropy, in nats per token.

    Args:
        model: a causal language model.
        passages: from `held_out`.
        advance: called with 1 after each passage.
    """
    device = next(model.parameters()).device
    means = {}
    for domain, rows in passages.items():
        values = []
        for row in rows.to(device):
            logits = model(row[None], use_cache=False).logits[0, :-1].float()
            values.append(float(nn.functional.cross_entropy(logits, row[1:])))
            advance(1)
        means[domain] = sum(values) / len(values)
    return means
