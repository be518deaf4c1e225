"""The files of a run as evidence: one manifest holds the SHA-256 of each.

A file's hash is in the manifest before the file is in the folder, so that a process killed between
the two leaves a file that is missing, which is made again. A file that is there without its hash,
or with another one, was not written by the run: it is refused. This guards against accidents and
careless edits. Edits that also rewrite the manifest are found only by running again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import new_folder, read_json, seal, to_json, unseal, write_bytes, write_json

MANIFEST = "manifest.json"
_LARGE = ("adapters/",)
"""Files that no result is read from; they are checked before a run continues."""


@dataclass(frozen=True, slots=True)
class RecordedFolder:
    """A folder whose files are checked against its manifest whenever they are read."""

    root: Path

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
        return str(seal(self._hashes())["sha256"])

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
        return self._checked(path, found, self._hashes())

    def read(self, path: Path) -> bytes:
        """Return the content of a file, which is what the run wrote.

        Raises:
            UserError: it is missing, or is not what the run wrote.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        self._checked(path, hashlib.sha256(content).hexdigest(), self._hashes())
        return content

    def read_json(self, path: Path) -> Any:
        """Return the content of a JSON file; see `read`."""
        return read_json(path, self.read(path))

    def write(self, path: Path, content: bytes) -> None:
        """Write a file and its hash."""
        digest = hashlib.sha256(content).hexdigest()
        if self._known().get(self._name(path)) != digest:
            path.unlink(missing_ok=True)  # a file and the hash of another are never both there
            self._record({path: digest})
        write_bytes(path, content)

    def write_json(self, path: Path, value: object) -> None:
        """Write a JSON file and its hash; NaN is refused."""
        self.write(path, to_json(value).encode())

    @contextmanager
    def new_folder(self, path: Path) -> Iterator[Path]:
        """Yield a draft folder that appears as `path`, its files and hashes together."""
        with new_folder(path) as draft:
            yield draft
            files = [file for file in draft.rglob("*") if file.is_file()]
            self._record({path / file.relative_to(draft): _digest(file) for file in files})
            shutil.rmtree(path, ignore_errors=True)  # a part of it, where another was removed

    def check(self) -> None:
        """Check that each file of a finished run is there, and is what the run wrote.

        Raises:
            UserError: a file is missing, or is not what the run wrote.
        """
        for name in sorted(self._hashes()):
            if not name.startswith(_LARGE):
                self.digest(self.root / name)

    def check_unfinished(self) -> None:
        """Check each file that is there, and forget those that are missing: they are made again.

        Raises:
            UserError: a file is not what the run wrote.
        """
        known = self._hashes()
        there = {name: sha for name, sha in known.items() if self.has(self.root / name)}
        if there != known:
            write_json(self.manifest, seal(there))

    def _hashes(self) -> dict[str, str]:
        if not self.manifest.is_file():
            raise UserError(
                f"{self.root} has no {MANIFEST}, which holds the hashes of a run's files: it was "
                "lost, or the run is of an earlier version; run it again in another folder"
            )
        return self._known()

    def _known(self) -> dict[str, str]:
        """Return path in the folder -> SHA-256; nothing where there is no manifest yet."""
        try:
            about = self.manifest.stat()
        except FileNotFoundError:
            return {}
        return _parsed(self.manifest, about.st_ino, about.st_mtime_ns)

    def _record(self, hashes: Mapping[Path, str]) -> None:
        new = {self._name(path): digest for path, digest in hashes.items()}
        write_json(self.manifest, seal(self._known() | new))

    def _checked(self, path: Path, found: str, hashes: Mapping[str, str]) -> str:
        known = hashes.get(self._name(path))
        if found != known:
            how = "is not in" if known is None else "is not the file of"
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

    def recorded(self) -> Mapping[str, str]:
        """Return path in the folder -> SHA-256 of each recorded file; some may be missing.

        Raises:
            UserError: the manifest is missing or damaged.
        """
        return self._hashes()


@lru_cache(maxsize=8)
def _parsed(path: Path, *_version: int) -> dict[str, str]:
    """Return the content of a manifest; a run reads it once per file, so it is remembered."""
    try:
        return {str(name): str(sha) for name, sha in unseal(read_json(path)).items()}
    except (ValueError, AttributeError, UserError) as error:
        raise UserError(
            f"{path}: damaged, so that no file of this run can be checked ({error}); restore it, "
            "or run again in another folder"
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); run it again")
