"""Which workers live, seen from a machine that only reads.

A worker writes its file every few seconds. The time of the file is of the file system's clock, and
the clock of this machine may differ from it by minutes. So the clock counts at the first look only,
and only if the youngest file agrees with it; later the file must have changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..results.workers import LEASE, time_of

_MOST_SKEW = 3600.0
"""Seconds by which clocks may differ: whether an older file changes is not waited for."""


class Signs:
    """The times of workers' files, and when this process saw them change.

    Attributes:
        unsure: whether the files look old by the clock of this machine, or new beyond it, and this
            process has not seen yet whether they change.
    """

    def __init__(self) -> None:
        self.unsure = False
        self._times: dict[Path, float] = {}
        self._since: dict[Path, float] = {}
        self._changed: set[Path] = set()
        self._youngest = 0.0
        self._clock_agrees = True

    def see(self, paths: Iterable[Path]) -> None:
        """Read the times of the files of all workers that should write them."""
        now = time.monotonic()
        times = {}
        for path in paths:
            with suppress(OSError):  # it has just ended
                times[path] = time_of(path)
        for path, written in times.items():
            if self._times.get(path) != written:
                self._since[path] = now
                if path in self._times:
                    self._changed.add(path)
        self._times = times
        self._youngest = max(times.values(), default=0.0)
        apart = time.time() - self._youngest
        self._clock_agrees = -LEASE <= apart <= LEASE
        may_live = bool(times) and apart <= _MOST_SKEW
        self.unsure = may_live and not (self._clock_agrees or self._changed)

    def age(self, path: Path) -> float:
        """Return the seconds without a sign of a worker; more than `LEASE` if it seems dead."""
        if path not in self._times:
            return 0.0  # it began, or failed, after the last look
        silent = time.monotonic() - self._since[path]
        if path in self._changed:
            return silent
        behind = max(silent, self._youngest - self._times[path])
        if self._changed or self._clock_agrees:
            return behind
        return max(behind, abs(time.time() - self._youngest))
