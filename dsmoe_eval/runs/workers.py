"""The workers of a run: processes that answer for it, each with a file that shows that it lives.

The time of a file is that of the file system's clock, so that no two machines' clocks are compared.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import UserError
from ..files import damage, read_json, write_json
from ..progress import current_steps
from ..results.folder import RunFolder

BEAT = 3.0
"""Seconds between two writes of a worker's file."""
LEASE = 30.0
"""Seconds without a write after which others take over the work of a worker."""
WORKING, FAILED = "working", "failed"


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


class Worker:
    """This process as a worker of a run; its file is written every `BEAT` seconds inside `working`.

    Args:
        root: the run's folder.
        name: the name of the worker, which no other worker of the run has.
        node: the name of the machine; by default the host's.

    Attributes:
        name: as above.
        cells: the number of cells of the run, once it is known.
        open: the number of pieces that no worker has begun, in stages that are shared.
    """

    def __init__(self, root: Path, name: str, node: str | None = None) -> None:
        self.name = name
        self.cells: int | None = None
        self.open: int | None = None
        self._folder = RunFolder(root)
        self._node = node or socket.gethostname()
        self._failure: str | None = None
        self._stop = threading.Event()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show that this worker lives; afterwards its file is removed, or says why it failed.

        Raises:
            UserError: the file cannot be written.
        """
        self.beat()
        thread = threading.Thread(target=self._repeat, name=f"worker {self.name}", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            self._failure = str(error) if isinstance(error, UserError) else type(error).__name__
            raise
        finally:
            self._stop.set()
            thread.join()
            self._end()

    def beat(self) -> None:
        """Write the worker's file."""
        content = {k: v for k, v in asdict(self.state).items() if k != "age"}
        try:
            write_json(self._path, content)
        except FileNotFoundError:  # another, which has ended, has just removed the folder
            write_json(self._path, content)

    @property
    def state(self) -> WorkerState:
        """The present state."""
        steps = current_steps()
        state = WorkerState(
            self.name,
            self._node,
            os.getpid(),
            WORKING if self._failure is None else FAILED,
            cells=self.cells,
            open=self.open,
            text=self._failure,
        )
        if steps is None:
            return state
        return replace(
            state,
            stage=steps.label,
            done=steps.done,
            total=steps.total,
            unit=steps.unit,
            rate=steps.rate,
            seconds_left=steps.seconds_left,
        )

    def knows_alive(self, name: str) -> bool:
        """Return whether another worker lives, by the clock of the file system."""
        found = _read(self._folder.worker(name), self.now)
        return found is not None and found.lives

    @property
    def now(self) -> float:
        """The time of this worker's file, at most `BEAT` seconds ago while it is written."""
        return _time_of(self._path)

    @property
    def _path(self) -> Path:
        return self._folder.worker(self.name)

    def _repeat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(
                OSError, UserError
            ):  # others take over; the work itself tells a full disk
                self.beat()

    def _end(self) -> None:
        if self._failure is not None:
            with suppress(OSError, UserError):
                self.beat()
            return
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # others work here
            self._path.parent.rmdir()


def read_workers(folder: RunFolder) -> list[WorkerState]:
    """Return the workers of a run, by name; their ages are by the clock of this machine.

    Raises:
        UserError: a file is damaged.
    """
    paths = sorted(folder.workers.glob("*.json"))
    return [one for path in paths if (one := _read(path, time.time())) is not None]


def _read(path: Path, now: float) -> WorkerState | None:
    """Return the content of a worker's file; None if it has ended."""
    try:
        written = _time_of(path)
        content = read_json(path)
    except (FileNotFoundError, UserError):
        if path.is_file():
            raise
        return None
    with damage(path):
        return WorkerState(**content, age=max(0.0, now - written))


def _time_of(path: Path) -> float:
    """Return the time of a file; opening it makes network file systems ask their server."""
    with path.open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime
