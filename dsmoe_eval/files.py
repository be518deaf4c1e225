"""JSON and text files that are either complete or absent."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

MOST_JSON = 2**30
"""The most bytes of a JSON file of a run."""


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


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        UserError: the file is missing or damaged.
    """
    data = read_limited(path, MOST_JSON)
    with damage(path):
        return json.loads(data.decode("utf-8"), parse_constant=_no_number)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn the errors of code that takes a file's content apart into one sentence.

    Raises:
        UserError: the content has not the form that the code inside expects.
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
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a draft folder that is renamed to `path` without an error, and deleted with one.

    The draft of a killed process remains; its name starts with a dot and it is never read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    draft.mkdir()
    try:
        yield draft
        os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
