"""Several callers of one engine, whose requests are answered as one batch.

Each caller runs in a thread until it has requests. When all callers that still run wait, the
calling thread answers the requests of all of them, in the order of the callers; so the batches do
not depend on which thread is faster. Callers run one at a time, so they may share what is not safe
for threads.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Work = TypeVar("Work")
Reply = TypeVar("Reply")
Result = TypeVar("Result")


class Meeting(Generic[Work, Reply]):
    """A meeting of callers, one per thread.

    Args:
        answer: gets what the waiting callers brought, in their order, and returns as many replies.
    """

    def __init__(self, answer: Callable[[Sequence[Work]], Sequence[Reply]]) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._running = 0
        self._waiting: dict[int, Work] = {}
        self._replies: dict[int, Reply] = {}
        self._failed: BaseException | None = None

    def run(self, callers: Sequence[Callable[[Callable[[Work], Reply]], Result]]) -> list[Result]:
        """Run callers, each of which gets a function that exchanges work for a reply.

        Raises:
            BaseException: the first error of a caller or of `answer`; the other callers are ended.
        """
        results: dict[int, Result] = {}
        self._running = len(callers)
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(self._call, i, one, results)
            )
            for i, one in enumerate(callers)
        ]
        for thread in threads:
            thread.start()
        try:
            while self._answer_all():
                pass
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._failed is not None:
            raise self._failed
        return [results[index] for index in range(len(callers))]

    def _answer_all(self) -> bool:
        """Answer all callers once all wait; return whether any still runs."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._failed is not None or len(self._waiting) == self._running
            )
            if self._failed is not None or not self._running:
                return False
            places = sorted(self._waiting)
            work = [self._waiting[place] for place in places]
        replies = self._answer(work)
        with self._changed:
            self._waiting.clear()
            self._replies = dict(zip(places, replies, strict=True))
            self._changed.notify_all()
        return True

    def _call(
        self,
        place: int,
        caller: Callable[[Callable[[Work], Reply]], Result],
        results: dict[int, Result],
    ) -> None:
        try:
            with self._turn:
                results[place] = caller(lambda work: self._exchange(place, work))
        except BaseException as error:  # raised again by `run`
            self._fail(error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _exchange(self, place: int, work: Work) -> Reply:
        self._turn.release()
        try:
            with self._changed:
                self._waiting[place] = work
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._failed is not None or place in self._replies)
                if self._failed is not None:
                    raise _EndedError
                return self._replies.pop(place)
        finally:
            self._turn.acquire()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failed is None and not isinstance(error, _EndedError):
                self._failed = error
            self._changed.notify_all()


class _EndedError(Exception):
    """Another caller failed, so this one is ended."""
