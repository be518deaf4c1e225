"""What does not fit into memory is tried again in halves.

Accelerate says what a lack of memory is. Its `find_executable_batch_size` starts the whole work
again, and collects garbage before each call; here what is done stays done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from ...errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_halves(
    batch: Sequence[Item],
    work: Callable[[Sequence[Item]], Result],
    length: Callable[[Item], int],
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Run a batch in order, in halves of halves if memory is short.

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
            if not should_reduce_batch_size(error):
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
        clear_device_cache()
