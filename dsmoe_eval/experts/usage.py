"""Measures how much each expert is used on texts, with or without steering, for reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..steering import EXPERTS, Sites, capture_selected, find_sites
from .batching import batches, pad, token_budget
from .documents import encode_documents
from .tokenizer import Tokenizer

_MOST_COLUMNS = 64


def column_width(units: int) -> int:
    """Return how many neighbouring neurons are added up in a column; see `in_columns`."""
    return -(-units // _MOST_COLUMNS)


def in_columns(table: NDArray[np.float64], sites: Sites) -> NDArray[np.float64]:
    """Add up a table over neurons in at most 64 columns of as many neighbours, for maps and files.

    Args:
        table: [layers, units].
        sites: what the units are; a table of experts is returned unchanged.

    Returns:
        [layers, columns]; the last column may be of fewer neurons.
    """
    if sites == EXPERTS:
        return table
    each = column_width(table.shape[-1])
    added: NDArray[np.float64] = np.add.reduceat(table, range(0, table.shape[-1], each), axis=-1)
    return added


def encode_batch(
    tokenizer: Tokenizer, texts: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokenize texts to ids and mask, [texts, length], right-padded; needs no pad token."""
    return pad(tokenizer(list(texts))["input_ids"], device)


@torch.no_grad()
def expert_usage(
    model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], sites: Sites = EXPERTS
) -> NDArray[np.float64]:
    """Compute the share of the texts' tokens that select each unit, without special tokens.

    Returns:
        [layers, experts]; each layer sums to k.
    """
    routers = find_sites(model, sites)
    device = next(model.parameters()).device
    documents = encode_documents(tokenizer, {"all": texts})
    used = torch.zeros(len(routers), routers[0].experts, dtype=torch.long)
    tokens = 0
    with capture_selected(routers) as routing:
        for batch in batches(documents, token_budget(device)):
            ids, mask = pad([documents[index].tokens for index in batch], device)
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
            kept = pad([documents[index].kept for index in batch])[0].bool()
            chosen = routing.indices().cpu()[kept.flatten()]
            for row in range(len(routers)):
                used[row] += torch.bincount(chosen[:, row].flatten(), minlength=used.shape[1])
            tokens += len(chosen)
    share: NDArray[np.float64] = used.double().numpy() / tokens
    return share
