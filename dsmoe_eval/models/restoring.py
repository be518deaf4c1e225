"""Weights that are changed for a while and then have each bit back, however that while ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def restoring(weights: Sequence[Tensor]) -> Iterator[None]:
    """Restore tensors after the context, bit for bit, also if it ends by an error.

    Their values are kept in the CPU's memory meanwhile.

    Args:
        weights: tensors in memory, of any shapes and dtypes.
    """
    before = [one.detach().to("cpu", copy=True) for one in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for one, kept in zip(weights, before, strict=True):
                one.copy_(kept)
