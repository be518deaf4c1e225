"""This process as a worker of a run; its file shows that it lives, see `results.workers`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import UserError
from ..files import write_json
from ..progress import current_steps
from ..results.folder import RunFolder
from ..results.workers import (
    BEAT,
    FAILED,
    LEASE,
    WORKING,
    WorkerState,
    read_worker,
    read_workers,
    time_of,
)

__all__ = ["BEAT", "FAILED", "LEASE", "WORKING", "Worker", "WorkerState", "read_workers"]


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
        found = read_worker(self._folder.worker(name), self.now)
        return found is not None and found.lives

    @property
    def now(self) -> float:
        """The time of this worker's file, at most `BEAT` seconds ago while it is written."""
        return time_of(self._path)

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
