"""The rows of a batch of documents: what a pass records of each token that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..steering import Routing
from .batching import pad
from .contribution import Contributions
from .documents import Document


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of the counted tokens of some documents, [tokens] or [tokens, layers, k] each.

    Attributes:
        document: index of each token's document.
        generated: whether the model generated the token.
        token: the token's id.
        saliency: Eq. 5, float32; None if saliency was not computed.
        experts: [tokens, layers, k] int16, or int32 where a layer has more; the selected units.
        weights: [tokens, layers, k] float32, their weights as the experts received them; the sizes
            of neurons, in bfloat16.
        contributions: [tokens, layers, k] float32, EASY-EP's, see `contribution.py`; None if not
            computed.
        gated: the same of REAP's.
        spread: [tokens, layers] float32, the logits' `logit_spread`; None if not recorded.
        active: [tokens, layers, bytes] uint8, a bit per neuron (see `pack_bits`); None if not
            recorded.
    """

    document: Tensor
    generated: Tensor
    token: Tensor
    saliency: Tensor | None
    experts: Tensor
    weights: Tensor
    contributions: Tensor | None
    spread: Tensor | None = None
    gated: Tensor | None = None
    active: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the columns that the batch has, for a file."""
        columns = {name: getattr(self, name) for name in self.__slots__}
        return {name: column.contiguous() for name, column in columns.items() if column is not None}


def counted_rows(
    documents: Sequence[Document],
    batch: Sequence[int],
    routing: Routing,
    saliency: Tensor | None,
    contributions: Contributions | None,
    more: tuple[Tensor | None, Tensor | None],
    narrow: tuple[torch.dtype, torch.dtype] = (torch.int16, torch.float32),
) -> Batch:
    """Select the counted rows of a padded forward pass, [documents * length, ...] each.

    `more` has spread and activity; `narrow` the dtypes of indices and weights.
    """
    spread, active = more
    flat = pad([documents[index].kept for index in batch])[0].bool().flatten()

    def pick(values: Tensor) -> Tensor:
        return values.cpu()[flat]

    return Batch(
        **token_columns(documents, batch),
        saliency=None if saliency is None else pick(saliency.flatten()),
        experts=pick(routing.indices().to(narrow[0])),
        weights=pick(routing.weights().to(narrow[1])),
        contributions=None if contributions is None else pick(contributions.moved),
        gated=None if contributions is None else pick(contributions.gated),
        spread=None if spread is None else pick(spread),
        active=None if active is None else pack_bits(pick(active)),
    )


def pack_bits(active: Tensor) -> Tensor:
    """Return a bit per unit, [..., bytes] uint8, of [..., units] bool; the rest of a byte is 0."""
    return torch.from_numpy(np.packbits(active.numpy(), axis=-1))


def token_columns(documents: Sequence[Document], batch: Sequence[int]) -> dict[str, Tensor]:
    """Return the document, phase and id of each counted token, in the order of the batch."""
    rows = [
        (index, position >= documents[index].prompt_length, token)
        for index in batch
        for position, (token, kept) in enumerate(
            zip(documents[index].tokens, documents[index].kept, strict=True)
        )
        if kept
    ]
    document, generated, token = torch.tensor(rows, dtype=torch.int32).unbind(1)
    return {"document": document, "generated": generated.bool(), "token": token}
