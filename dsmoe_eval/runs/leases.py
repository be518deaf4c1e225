"""How several workers share a run: whoever leases a piece first does it, and the others wait.

A lease is a file that only one process can make. It counts as long as its worker lives; then the
next attempt may be leased. Whether a piece is done is not a matter of leases: its files are there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import UserError
from ..results.folder import RunFolder
from .workers import LEASE, Worker

MOST_ATTEMPTS = 5
"""The workers that may die on one piece before the run stops."""
_PAUSE = 0.3
"""Seconds after which a waiting worker looks again."""


@dataclass(frozen=True, slots=True)
class RunPart:
    """A worker of a run that several share.

    Attributes:
        name: its name, which no other worker of the run has, and which it keeps when it is started
            again.
        node: the name of its machine; None: the host's.
        shard: its part of the cells; None: any of them.
    """

    name: str
    node: str | None = None
    shard: Shard | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a run that one worker does.

    Attributes:
        key: the name of the piece, the same in every worker.
        done: returns whether its files are there.
        do: makes its files.
        skip: counts it as done by another.
    """

    key: str
    done: Callable[[], bool]
    do: Callable[[], None]
    skip: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of a run's cells, by the hash of their keys; the first is 1."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise UserError(f"shard {self.index}/{self.of}: give one from 1/{self.of}")

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @property
    def worker(self) -> str:
        """The name of the worker of this shard."""
        return f"shard-{self.index}-of-{self.of}"

    def has(self, key: str) -> bool:
        """Return whether a piece belongs to this shard."""
        return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) % self.of == self.index - 1


class Leases(Protocol):
    """The way in which a worker takes its part of a run."""

    @property
    def writer(self) -> str | None:
        """The name of the worker among several; None: it is the only one."""

    @property
    def shard(self) -> Shard | None:
        """The part of the cells that the worker answers; None: any of them, and all together."""

    def turn(self, key: str) -> AbstractContextManager[None]:
        """Run the code inside, which does only what is missing, by one worker at a time."""

    def share(self, pieces: Sequence[Piece], by_shard: bool = False) -> None:
        """Make what is missing of some pieces, or of those of the worker's shard only."""


class _Alone:
    """The only worker of a run, which locks its folder."""

    writer = shard = None

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:  # noqa: ARG002
        yield

    def share(self, pieces: Sequence[Piece], by_shard: bool = False) -> None:  # noqa: ARG002
        for piece in pieces:
            (piece.skip if piece.done() else piece.do)()


ALONE: Leases = _Alone()
"""The leases of a worker that shares with no other."""


class Shared:
    """One of several workers on the folder of a run.

    Args:
        root: the run's folder.
        worker: this worker, which shows that it lives as long as the leases are used.
        shard: the part of the shared pieces that this worker does; None: any of them.
    """

    def __init__(self, root: Path, worker: Worker, shard: Shard | None = None) -> None:
        self.writer, self.shard = worker.name, shard
        self._worker = worker
        self._folder = RunFolder(root, worker.name)

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Run the code inside, which does only what is missing, by one worker at a time.

        Raises:
            UserError: too many workers died here.
        """
        while (lease := self._lease(key)) is None:
            time.sleep(_PAUSE)
        with _released(lease, self._worker.name):
            yield

    def share(self, pieces: Sequence[Piece], by_shard: bool = False) -> None:
        """Make what is missing of some pieces, each by one worker; wait for those of others.

        Each worker begins with another piece, so that neighbours, which often need the same
        steering, go to the same worker.

        Args:
            pieces: the pieces, the same in every worker.
            by_shard: whether those of other shards are neither done nor waited for.

        Raises:
            UserError: too many workers died on one piece.
        """
        mine = list(pieces)
        if by_shard and (shard := self.shard) is not None:
            mine = [one for one in pieces if shard.has(one.key)]
            for piece in pieces:
                if not shard.has(piece.key):
                    piece.skip()
        left = _from_another_place(mine, self._worker.name)
        try:
            while left := self._taken(left):
                self._worker.open = 0
                time.sleep(_PAUSE)
        finally:
            self._worker.open = None

    def _taken(self, left: list[Piece]) -> list[Piece]:
        """Make each piece that is not leased; return those of living workers."""
        waiting = []
        for number, piece in enumerate(left):
            if piece.done():
                piece.skip()
                continue
            self._worker.open = len(left) - number
            if (lease := self._lease(piece.key)) is None:
                waiting.append(piece)
                continue
            with _released(lease, self._worker.name):
                (piece.skip if piece.done() else piece.do)()
        return waiting

    def _lease(self, key: str) -> Path | None:
        """Start the lease of a piece; return its file, or None if a living worker has it.

        Raises:
            UserError: it was leased too often.
        """
        for attempt in range(MOST_ATTEMPTS):
            path = self._folder.lease(key, attempt)
            if _make(path, self._worker.name):
                return path
            if not self._may_follow(path):
                return None
        raise UserError(
            f"{self._folder.root}: {MOST_ATTEMPTS} workers died on {key}; see the end of their "
            f"logs; to try again, remove {self._folder.lease(key, 0).with_suffix('.*')}"
        )

    def _may_follow(self, path: Path) -> bool:
        """Return whether a lease has lost its worker, or is of an earlier start of this one."""
        try:
            owner, made = path.read_text(encoding="utf-8"), path.stat().st_mtime
        except FileNotFoundError:
            return False  # released just now; the next look tells
        if not owner:  # its name is about to be written
            return self._worker.now - made > LEASE
        return owner == self._worker.name or not self._worker.knows_alive(owner)


def _from_another_place(pieces: list[Piece], name: str) -> list[Piece]:
    first = int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) % max(1, len(pieces))
    return pieces[first:] + pieces[:first]


def _make(path: Path, owner: str) -> bool:
    """Make the file of a lease; return False if it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(owner)
    except FileExistsError:
        return False
    return True


@contextmanager
def _released(lease: Path, owner: str) -> Iterator[None]:
    """Remove a lease afterwards, unless another worker has followed on it meanwhile.

    Those of dead workers before it go first. Such a worker may have been started again, and would
    seem to have the lease as long as it lives.
    """
    number = int(lease.suffix[1:])
    try:
        yield
    finally:
        following = lease.with_suffix(f".{number + 1}")
        if not following.exists() and _owner(lease) == owner:
            for attempt in range(number + 1):
                lease.with_suffix(f".{attempt}").unlink(missing_ok=True)


def _owner(lease: Path) -> str | None:
    """Return the name of the worker that has a lease; None if there is no such lease."""
    try:
        return lease.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
