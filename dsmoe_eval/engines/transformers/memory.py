"""What does not fit into memory is tried again in halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from ...errors import UserError

_CPU_SAYS = ("DefaultCPUAllocator", "not enough memory")
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_halves(
    batch: Sequence[Item],
    work: Callable[[Sequence[Item]], Result],
    length: Callable[[Item], int],
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Work on a batch, or on halves of it, or of those, for which there is memory, in order.

    Args:
        batch: to work on.
        work: may run out of memory.
        length: an item's tokens, for the error's words.

    Raises:
        UserError: one item alone is too much.
    """
    start, size = 0, len(batch)
    while start < len(batch):
        part = batch[start : start + size]
        try:
            result = work(part)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise UserError(
                    f"no memory for one row of {length(part[0])} tokens; use a larger device, a "
                    "smaller dtype or shorter prompts"
                ) from error
            size = len(part) // 2
        else:
            yield part, result
            start += len(part)
            continue
        # Out of the handler: the error's frames held the tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's error and for that of torch's CPU allocator."""
    return isinstance(error, torch.OutOfMemoryError) or any(s in str(error) for s in _CPU_SAYS)
