"""The files of a run as evidence: one manifest holds the SHA-256 of each.

A file's hash is in the manifest before the file is in the folder, so that a process killed between
the two leaves a file that is missing, which is made again. A file that is there without its hash,
or with another one, was not written by the run: it is refused. This guards against accidents and
careless edits. Edits that also rewrite the manifest are found only by running again.

Several writers at once have a part of the manifest each, since none may write over what another
has recorded. A file is right if any of them recorded it; `absorb` makes one manifest of the parts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import (
    move_folder,
    passing_folder,
    read_json,
    seal,
    to_json,
    unseal,
    write_bytes,
    write_json,
    writing,
)
from ..log import note

MANIFEST = "manifest.json"
PARTS = "manifest-parts"
"""The folder of the parts of several writers."""
TWICE = "made twice"
"""The message of the log about a part of a run that another writer had finished before."""
_PATIENCE = 90.0
"""Seconds in which another machine's part of the manifest must have arrived here: Linux believes
what it knows of a folder on NFS for at most 60.
"""
_LARGE = ("adapters/",)
"""Files that no result is read from; they are checked before a run continues."""


@dataclass(frozen=True, slots=True)
class RecordedFolder:
    """A folder whose files are checked against its manifest whenever they are read.

    Attributes:
        root: the folder.
        writer: the name of this writer, where several write; None: the only one.
    """

    root: Path
    writer: str | None = None

    @property
    def manifest(self) -> Path:
        """The file of the hashes."""
        return self.root / MANIFEST

    @property
    def root_hash(self) -> str:
        """The hash over all files' names and hashes.

        Raises:
            UserError: the manifest is missing or damaged.
        """
        return str(seal(self.recorded())["sha256"])

    def has(self, path: Path) -> bool:
        """Return whether a file is there, as the run wrote it.

        Raises:
            UserError: it is there, but is not what the run wrote.
        """
        return path.is_file() and bool(self.digest(path))

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, which is that of the manifest.

        Raises:
            UserError: it is missing, or is not what the run wrote.
        """
        try:
            found = _digest(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        return self._checked(path, found)

    def read(self, path: Path) -> bytes:
        """Return the content of a file, which is what the run wrote.

        Raises:
            UserError: it is missing, or is not what the run wrote.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        self._checked(path, hashlib.sha256(content).hexdigest())
        return content

    def read_json(self, path: Path) -> Any:
        """Return the content of a JSON file; see `read`."""
        return read_json(path, self.read(path))

    def write(self, path: Path, content: bytes) -> None:
        """Write a file and its hash."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._known().get(self._name(path), ()):
            path.unlink(missing_ok=True)  # a file and the hash of another are never both there
            self._record({path: digest})
        write_bytes(path, content)

    def write_json(self, path: Path, value: object) -> None:
        """Write a JSON file and its hash; NaN is refused."""
        self.write(path, to_json(value).encode())

    @contextmanager
    def new_folder(self, path: Path) -> Iterator[Path]:
        """Yield a draft folder that appears as `path`, its files and hashes together.

        If another writer has finished the same meanwhile, the first one stays.
        """
        with passing_folder(path) as draft:
            with writing(path):
                yield draft
            files = [file for file in draft.rglob("*") if file.is_file()]
            there = {path / file.relative_to(draft): _digest(file) for file in files}
            if not all(map(self.has, there)):
                self._record(there)
                with writing(path):
                    if move_folder(draft, path):
                        return
                    if not all(file.is_file() for file in there):  # one of its files was removed
                        shutil.rmtree(path, ignore_errors=True)
                        if move_folder(draft, path):
                            return
            note(TWICE, part=self._name(path))

    def check(self) -> None:
        """Check that each file of a finished run is there, and is what the run wrote.

        Raises:
            UserError: a file is missing, or is not what the run wrote.
        """
        for name in sorted(self.recorded()):
            if not name.startswith(_LARGE):
                self.digest(self.root / name)

    def check_unfinished(self) -> None:
        """Check each file that is there, and forget those that are missing: they are made again.

        Raises:
            UserError: a file is not what the run wrote.
        """
        known = self.recorded()
        there = {name: sha for name, sha in known.items() if self.has(self.root / name)}
        if there != known:
            write_json(self.manifest, seal(there))

    def recorded(self) -> Mapping[str, str]:
        """Return path in the folder -> SHA-256 of all files, of those that several wrote too.

        Raises:
            UserError: the manifest is missing or damaged.
        """
        return {name: self._one_of(name, hashes) for name, hashes in self._hashes().items()}

    def absorb(self) -> None:
        """Make one manifest of the parts of several writers, none of whom writes any more."""
        if self._parts():
            write_json(self.manifest, seal(self.recorded()))
            shutil.rmtree(self.root / PARTS)

    def _one_of(self, name: str, hashes: tuple[str, ...]) -> str:
        """Return the hash of a file for which several were recorded: that of the file there."""
        path = self.root / name
        if len(hashes) == 1 or not path.is_file():
            return hashes[0]
        found = _digest(path)
        return found if found in hashes else hashes[0]

    def _hashes_of(self, path: Path) -> tuple[str, ...]:
        return self._hashes().get(self._name(path), ())

    def _hashes(self) -> Mapping[str, tuple[str, ...]]:
        if not (self.manifest.is_file() or self._parts()):
            raise UserError(
                f"{self.root} has no {MANIFEST}, which holds the hashes of a run's files: it was "
                "lost, or the run is of an earlier version; run it again in another folder"
            )
        return self._known()

    def _known(self) -> Mapping[str, tuple[str, ...]]:
        """Return path in the folder -> the SHA-256 that each writer recorded, if any did."""
        return _merged(*map(_version, (self.manifest, *self._parts())))

    def _parts(self) -> list[Path]:
        return sorted((self.root / PARTS).glob("*.json"))

    def _record(self, hashes: Mapping[Path, str]) -> None:
        new = {self._name(path): digest for path, digest in hashes.items()}
        path = self.root / PARTS / f"{self.writer}.json" if self.writer else self.manifest
        write_json(path, seal(_parsed(_version(path)) | new))

    def _checked(self, path: Path, found: str) -> str:
        known, until = self._hashes_of(path), time.monotonic() + _PATIENCE
        while self.writer and found not in known and time.monotonic() < until:
            time.sleep(min(1.0, _PATIENCE / 30))
            known = self._hashes_of(path)
        if found not in known:
            how = "is not the file of" if known else "is not in"
            raise UserError(
                f"{path}: {how} the run's {MANIFEST}, so it was changed after the run wrote it; "
                f"restore it, or remove {self._part(path)} and run again"
            )
        return found

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _part(self, path: Path) -> Path:
        """Return what is made again as a whole: a cell's or an adapter's folder, else the file."""
        parts = path.relative_to(self.root).parts
        if parts[0] == "run.json":
            return self.root
        return self.root.joinpath(*parts[: 2 if parts[0] in ("cells", "adapters") else None])


Version = tuple[Path, int, int, int]
"""A file with the numbers that change whenever it is written anew."""


def _version(path: Path) -> Version:
    try:
        with path.open("rb") as stream:  # opening it makes network file systems ask their server
            about = os.fstat(stream.fileno())
    except FileNotFoundError:
        return path, 0, 0, 0
    return path, about.st_ino, about.st_mtime_ns, about.st_size


@lru_cache(maxsize=8)
def _merged(*versions: Version) -> Mapping[str, tuple[str, ...]]:
    known: dict[str, tuple[str, ...]] = {}
    for version in versions:
        for name, digest in _parsed(version).items():
            before = known.get(name, ())
            known[name] = before if digest in before else (*before, digest)
    return known


@lru_cache(maxsize=256)
def _parsed(version: Version) -> dict[str, str]:
    """Return the content of a manifest or a part of it; nothing where there is none yet.

    A run reads it once per file, so it is remembered.
    """
    path, inode, *_ = version
    if not inode:
        return {}
    try:
        return {str(name): str(sha) for name, sha in unseal(read_json(path)).items()}
    except (ValueError, AttributeError, UserError) as error:
        reason = error.__cause__ or error  # without the advice for files that a run makes again
        raise UserError(
            f"{path}: damaged, so that no file of this run can be checked ({reason}); restore it, "
            "or run again in another folder"
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); run it again")
