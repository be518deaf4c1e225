"""The files of a run's workers, processes that answer for it: they show what each does.

The time of a file is that of the file system's clock, so that no two machines' clocks are compared.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..files import damage, read_json
from .folder import RunFolder

BEAT = 3.0
"""Seconds between two writes of a worker's file."""
LEASE = 30.0
"""Seconds without a write after which others take over the work of a worker."""
WORKING, FAILED = "working", "failed"
LOCAL = "local"
"""The name of the worker of a run in one process."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The content of a worker's file.

    Attributes:
        name: the name of the worker, which it keeps when it is started again.
        node: the name of its machine, or the address in a cluster.
        process: the number of its process.
        state: `working` or `failed`; the file of a worker that has ended is removed.
        stage: the stage; None between two stages.
        done: the number of steps of the stage that were done, `total` that of all its steps.
        unit: the name of the steps.
        rate: steps per second; None before the first step.
        seconds_left: the estimated rest of the stage in seconds.
        cells: the number of cells of the whole run; None before it is known.
        open: the number of pieces of the stage that no worker has begun; None outside such stages.
        text: the sentence of a failure.
        age: seconds since the file was written, which is not in the file.
    """

    name: str
    node: str
    process: int
    state: str = WORKING
    stage: str | None = None
    done: int = 0
    total: int = 0
    unit: str = "steps"
    rate: float | None = None
    seconds_left: float | None = None
    cells: int | None = None
    open: int | None = None
    text: str | None = None
    age: float = field(default=0.0, compare=False)

    @property
    def lives(self) -> bool:
        """Whether the worker works, as far as its file shows."""
        return self.state == WORKING and self.age <= LEASE


def read_workers(folder: RunFolder) -> list[WorkerState]:
    """Return the workers of a run, by name; their ages are by the clock of this machine.

    Raises:
        UserError: a file is damaged.
    """
    try:
        names = sorted(os.listdir(folder.workers))
    except FileNotFoundError:
        return []
    paths = [folder.workers / name for name in names if name.endswith(".json")]
    return [one for path in paths if (one := read_worker(path, time.time())) is not None]


def read_worker(path: Path, now: float) -> WorkerState | None:
    """Return the content of a worker's file; None if it has ended.

    Args:
        path: the file.
        now: the time from which its age counts.

    Raises:
        UserError: the file is damaged.
    """
    try:
        written, content = _read(path)
    except FileNotFoundError:
        return None
    except OSError as error:  # it was written again meanwhile, on a network file system
        if error.errno != errno.ESTALE:
            raise
        written, content = _read(path)
    parsed = read_json(path, content)
    with damage(path):
        return WorkerState(**parsed, age=max(0.0, now - written))


def _read(path: Path) -> tuple[float, bytes]:
    return time_of(path), path.read_bytes()


def time_of(path: Path) -> float:
    """Return the time of a file; opening it makes network file systems ask their server."""
    with path.open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime
