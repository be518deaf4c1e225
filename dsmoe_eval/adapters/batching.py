"""Batches of requests that arrive one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

_QUIET_S = 0.05
"""Seconds without a new request after which a batch starts."""

Asked = TypeVar("Asked")
Given = TypeVar("Given")


@dataclass(eq=False)
class _Waiting(Generic[Asked, Given]):
    request: Asked
    answers: list[Given] = field(default_factory=list)
    error: BaseException | None = None


class Batcher(Generic[Asked, Given]):
    """A queue that runs waiting requests as one batch in a thread, one batch at a time.

    The first waiting caller runs the batch of all. While it runs, further requests gather.

    Args:
        run: answers a batch, in order; there are no concurrent calls of it.
    """

    def __init__(self, run: Callable[[Sequence[Asked]], Sequence[Given]]) -> None:
        self._run = run
        self._waiting: list[_Waiting[Asked, Given]] = []
        self._turn = anyio.Lock()

    async def ask(self, request: Asked, most: int) -> Given:
        """Answer one request, batched with at most `most - 1` others.

        Raises:
            Exception: the error of `run`; every request of the batch raises it.
        """
        mine: _Waiting[Asked, Given] = _Waiting(request)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if mine in self._waiting:
                    await self._gather(most)
                    await self._answer(mine, most)
        finally:
            if mine in self._waiting:  # cancelled before its turn
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answers[0]

    async def _gather(self, most: int) -> None:
        before = -1
        while before < len(self._waiting) < most:
            before = len(self._waiting)
            await anyio.sleep(_QUIET_S)

    async def _answer(self, mine: _Waiting[Asked, Given], most: int) -> None:
        others = [waiting for waiting in self._waiting if waiting is not mine]
        batch = [mine, *others][: max(1, most)]
        self._waiting = [waiting for waiting in self._waiting if waiting not in batch]
        try:
            # A cancelled request still waits for its batch, since the batch has other requests.
            answers = await anyio.to_thread.run_sync(
                self._run, [waiting.request for waiting in batch]
            )
        except Exception as error:
            for waiting in batch:
                waiting.error = error
            return
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answers.append(answer)
