"""Files that are either complete or absent, content that is sealed by its hash, and locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .errors import EvalWarning, UserError

LOCK = ".lock"
"""The name of the file by which a process locks a folder; the file names the process."""

MOST_JSON = 2**30
"""The most bytes of a JSON file of a run."""
FREE_SPACE = "free some space and start the same command again"
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")


def cache_folder() -> Path:
    """Return the folder of what is kept once per user: `dsmoe-eval` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsmoe-eval"


def read_limited(path: Path, limit: int) -> bytes:
    """Read a regular file; devices and pipes, which may never end, are refused.

    Raises:
        UserError: the file cannot be read, is no regular file, or has more than `limit` bytes.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file; give the path of a file")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); check the path") from error
    if len(data) > limit:
        raise UserError(f"{path}: larger than the limit of {limit / 1e6:,.0f} MB; check the path")
    return data


def read_json(path: Path, content: bytes | None = None) -> Any:
    """Read a JSON file, or parse its content where that was read before.

    Raises:
        UserError: the file is missing or damaged.
    """
    data = read_limited(path, MOST_JSON) if content is None else content
    with damage(path):
        return json.loads(data.decode("utf-8"), parse_constant=_no_number)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn the errors of code that parses a file's content into one sentence.

    Raises:
        UserError: the content does not have the form that the code inside expects.
    """
    try:
        yield
    except KeyError as error:
        raise _damaged(path, f"{error} is missing") from error
    except RecursionError as error:
        raise _damaged(path, "nested too deeply") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: damaged JSON ({reason}); delete it and run again")


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused."""
    write_text(path, to_json(value))


def to_json(value: object) -> str:
    """Return the JSON text of a file.

    Raises:
        ValueError: a value is NaN.
    """
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one."""
    with new_file(path) as stream:
        stream.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream whose content is at `path` when it ends without an error, else nowhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    try:
        with writing(path):
            with draft.open("wb") as stream:
                yield stream
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file, or its folder, for which there was no room; libraries name none.

    Raises:
        UserError: the disk or the quota is full.
    """
    try:
        yield
    except Exception as error:  # safetensors and pyarrow have errors of their own
        if isinstance(error, UserError) or not (found := full_disk(error)):
            raise
        raise UserError(f"{path}: cannot be written ({found}); {FREE_SPACE}") from error


def full_disk(error: BaseException) -> str:
    """Return the words of an error that mean a lack of room on a disk; empty for another error."""
    found = _FULL.search(str(error))
    return found[0] if found else ""


def seal(content: object) -> dict[str, object]:
    """Return JSON content together with its hash, by which `unseal` sees a change."""
    return {"sha256": _hash(content), "content": content}


def unseal(sealed: Any) -> Any:
    """Return the content that `seal` was given.

    Raises:
        ValueError: the content does not match its hash.
    """
    if not isinstance(sealed, dict) or sealed.get("sha256") != _hash(sealed.get("content")):
        raise ValueError("its content and its SHA-256 differ")
    return sealed["content"]


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def is_draft(path: Path) -> bool:
    """Return whether a process that was killed in the middle of a write left this behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a draft folder that is renamed to `path` without an error, and deleted with one.

    The draft of a killed process remains until `remove_drafts`, and is never read.
    """
    with passing_folder(path) as draft, writing(path):
        yield draft
        os.replace(draft, path)


def move_folder(draft: Path, path: Path) -> bool:
    """Replace `path` by a draft folder; return False if `path` has appeared meanwhile."""
    try:
        os.replace(draft, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


@contextmanager
def passing_folder(path: Path) -> Iterator[Path]:
    """Yield a draft folder beside `path` that is deleted afterwards, by `remove_drafts` at last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts of killed processes from a folder that this process has locked."""
    for path in [path for path in folder.rglob(".*.tmp") if is_draft(path)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def lock_folder(folder: Path, name: str = LOCK, shared: bool = False) -> Callable[[], None]:
    """Lock a folder for this process, and return the function that unlocks it.

    The lock ends with the process, however that ends, and is not shared with its children.

    Args:
        folder: the folder, which is made if it is missing.
        name: the name of the file of the lock.
        shared: whether other processes may have the same lock, if they share it too.

    Raises:
        UserError: another process has the lock, or the folder cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
        while not _take(stream, path, shared):  # the process before has just removed the file
            stream = path.open("a+", encoding="utf-8")
        stream.truncate(0)
        stream.write(f"one of several, {this_process()}" if shared else this_process())
        stream.flush()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error

    def unlock() -> None:
        if not shared:  # else it may be the lock of others
            path.unlink(missing_ok=True)
        stream.close()

    return unlock


def this_process() -> str:
    """Return the name of this process, as locks have it: such as `process 12 on host`."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _take(stream: TextIO, path: Path, shared: bool) -> bool:
    """Return whether the lock of an open file was taken and the file is still in its folder.

    If not, the file is closed.
    """
    try:
        fcntl.lockf(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            stream.seek(0)
            owner = stream.read(200) or "another process"
            stream.close()
            raise UserError(
                f"{path.parent}: {owner} works in this folder; wait until it has ended, or stop it"
            ) from error
        warnings.warn(
            f"{path.parent}: this file system has no locks ({error.strerror}); make sure that no "
            "other process works in this folder",
            EvalWarning,
            stacklevel=3,
        )
    if os.fstat(stream.fileno()).st_nlink:
        return True
    stream.close()
    return False


@contextmanager
def locked(folder: Path, to: Path | None = None) -> Iterator[None]:
    """Lock a folder, if it exists, while something is written in it.

    Args:
        folder: the folder.
        to: what is written; if it is outside the folder, there is no need for a lock.
    """
    inside = to is None or to.resolve().is_relative_to(folder.resolve())
    if not (inside and folder.is_dir()):
        yield
        return
    unlock = lock_folder(folder)
    try:
        yield
    finally:
        unlock()
