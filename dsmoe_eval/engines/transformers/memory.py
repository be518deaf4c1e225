"""Computation in batches, each prepared while the one before it is computed.

A batch that does not fit into memory is run again in halves. Accelerate decides which errors are a
lack of memory. Its `find_executable_batch_size` would start the whole work again and collect
garbage before each call; here finished parts are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
        batch: items to work on.
        work: computes the result of a part of the batch; may run out of memory.
        length: returns the number of tokens of an item, for the error message.

    Yields:
        The items of a part, and the result of `work` for them.

    Raises:
        UserError: there is not enough memory for a single item.
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
        # Outside the handler, since the error's frames keep the tensors alive.
        clear_device_cache()


def ahead(
    items: Iterable[Item], prepare: Callable[[Item], Result]
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what is prepared for it, by a thread that is one item ahead.

    So no more than two prepared items are in memory.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="dsmoe-ahead") as thread:
        before: tuple[Item, Future[Result]] | None = None
        for item in items:
            coming = item, thread.submit(prepare, item)
            if before is not None:
                yield before[0], before[1].result()
            before = coming
        if before is not None:
            yield before[0], before[1].result()
