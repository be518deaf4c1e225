"""Progress of stages: bars with the time left on a terminal, plain lines elsewhere, log records.

Without a terminal a line is printed when a stage begins, when it ends, and at least every minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .log import STAGE, note

EVERY = 50.0
"""Seconds between two lines: less than a minute, so that a late line is still in time."""


class Steps:
    """A counter of a stage's steps: call it with the number of steps just done.

    Attributes:
        label: name of the stage.
        total: number of steps of the whole stage.
        unit: name of the steps, in the plural.
        done: number of steps done so far, those of an earlier start included.
    """

    def __init__(
        self, label: str, total: int, unit: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._skipped = 0
        self._clock = clock
        self._began = clock()
        self._show: Callable[[int], object] = lambda _count: None

    def __call__(self, count: int) -> None:
        """Count steps that were just done."""
        self.done += count
        self._show(count)

    def skip(self, count: int) -> None:
        """Count steps that need not be done; they do not enter the estimate of the time left."""
        self._skipped += count
        self(count)

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self._began

    @property
    def seconds_left(self) -> float | None:
        """Remaining seconds by the mean time of the steps done; None before the first step."""
        fresh = self.done - self._skipped
        return self.seconds / fresh * (self.total - self.done) if fresh > 0 else None

    @property
    def rate(self) -> float | None:
        """Steps per second, without those that were skipped; None before the first step."""
        fresh = self.done - self._skipped
        return fresh / self.seconds if fresh > 0 and self.seconds > 0 else None

    def shown_by(self, show: Callable[[int], object]) -> None:
        """Call `show` with every count from now on, such as to update a bar."""
        self._show = show


_RUNNING: list[Steps] = []


def current_steps() -> Steps | None:
    """Return the counter of the stage that is running in this process; None between stages."""
    return _RUNNING[-1] if _RUNNING else None


@contextmanager
def progress_bar(console: Console, label: str, total: int, unit: str = "steps") -> Iterator[Steps]:
    """Show and log a stage; yield its counter, to be called with the number of steps just done."""
    steps = Steps(label, total, unit)
    stage = STAGE.set(label)
    _RUNNING.append(steps)
    try:
        if console.is_terminal:
            with _bar(console, steps), _told(steps, lambda _line: None):
                yield steps
        else:
            with _told(steps, lambda line: console.print(Text(line), soft_wrap=True)):
                yield steps
    except Exception as error:
        error.add_note(f"stage {label!r}")
        raise
    finally:
        _RUNNING.remove(steps)
        STAGE.reset(stage)


@contextmanager
def counted_as(
    advance: Callable[[int], object], answers: int, requests: int
) -> Iterator[Callable[[int], None]]:
    """Count requests to an engine as answers; an answer may take several requests.

    Args:
        advance: called with numbers of answers; they sum to `answers` if no error occurs.
        answers: number of answers to all requests.
        requests: number of requests.
    """
    asked = told = 0

    def count(done: int) -> None:
        nonlocal asked, told
        asked = min(asked + done, requests)
        fresh = asked * answers // max(1, requests) - told
        told += fresh
        advance(fresh)

    yield count
    advance(answers - told)


@contextmanager
def _bar(console: Console, steps: Steps) -> Iterator[None]:
    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(steps.label, total=steps.total)
        steps.shown_by(lambda count: progress.advance(task, count))
        yield


@contextmanager
def _told(steps: Steps, say: Callable[[str], object]) -> Iterator[None]:
    """Print and log the start of a stage, its progress at intervals, and its end."""
    stop = threading.Event()

    def tell(message: str, words: str) -> None:
        say(f"{steps.label}: {words}")
        left = steps.seconds_left
        note(
            message,
            unit=steps.unit,
            done=steps.done,
            total=steps.total,
            seconds=round(steps.seconds, 3),
            seconds_left=None if left is None else round(left),
        )

    def repeat() -> None:
        STAGE.set(steps.label)  # a thread has a separate context
        tell_repeatedly(lambda: tell("stage goes on", _so_far(steps)), stop.wait)

    tell("stage begins", f"begins, {steps.total:,} {steps.unit}")
    thread = threading.Thread(target=repeat, name=f"progress of {steps.label}", daemon=True)
    thread.start()
    ended = "stage stopped", "stopped, "
    try:
        yield
        ended = "stage ends", "done, "
    finally:
        stop.set()
        thread.join()
        tell(ended[0], ended[1] + _counts(steps))


def tell_repeatedly(tell: Callable[[], None], stopped_within: Callable[[float], bool]) -> None:
    """Call `tell` every `EVERY` seconds until the stage is over.

    Args:
        tell: reports the progress of the stage.
        stopped_within: waits at most the given seconds; returns True once the stage is over.
    """
    while not stopped_within(EVERY):
        tell()


def _counts(steps: Steps) -> str:
    of = "" if steps.done == steps.total else f" of {steps.total:,}"
    return f"{steps.done:,}{of} {steps.unit} in {clock_time(steps.seconds)}"


def _so_far(steps: Steps) -> str:
    left = steps.seconds_left
    words = "time left not known yet" if left is None else f"about {clock_time(left)} left"
    return f"{steps.done:,} of {steps.total:,} {steps.unit} in {clock_time(steps.seconds)}, {words}"


def clock_time(seconds: float) -> str:
    """Return hours, minutes and seconds, such as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
