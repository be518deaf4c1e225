"""Files that may be damaged, truncated, huge or hostile: read within limits, or refused."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from ...errors import UserError

LONGEST_LINE = 64 * 2**20
"""Bytes."""
MOST_ROWS = 20_000_000
MOST_BYTES = 8 * 2**30
"""Of a file, unpacked."""

T = TypeVar("T")


def check_file(path: Path) -> None:
    """Refuse what is not a file of a size that can be read.

    Raises:
        UserError: it is not.
    """
    if not path.is_file():  # a pipe or a device might never end
        raise UserError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path}: the file is empty")
    if size > MOST_BYTES:
        raise UserError(f"{path}: {size / 2**30:.0f} GiB is more than is read; split it by task")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""The objects of a JSONL file, perhaps gzipped, with their line numbers, from 1.

    Lines end at "\n" only: U+2028 and its like may stand unescaped in JSON strings.

    Raises:
        UserError: a line is too long, or no JSON object.
    """
    for number, line in enumerate(_lines(path), start=1):
        if number > MOST_ROWS:
            raise UserError(f"{path}: more than {MOST_ROWS:,} lines; split it by task")
        if not line.strip():
            continue
        yield number, json_object(line, f"{path}, line {number}")


def json_object(text: bytes, place: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: it is none, with `place` in front.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise UserError(f"{place}: JSON nested too deeply to be a result") from error
    except ValueError as error:  # no JSON, no UTF-8, a number of too many digits
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"{place}: no JSON ({reason}); is the file cut off or damaged?") from error
    if not isinstance(value, dict):
        raise UserError(f"{place}: a JSON object is wanted, not {type(value).__name__}")
    return value


def _lines(path: Path) -> Iterator[bytes]:
    check_file(path)
    number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise UserError(f"{path}, line {number}: longer than 64 MiB; is it JSONL?")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read after line {number} ({reason})") from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def by_library(path: Path, read: Callable[[], T]) -> T:
    """Have a third party's reader read a file; whatever it raises says that it cannot.

    Raises:
        UserError: it cannot.
    """
    try:
        return read()
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; split it by task") from error
    except Exception as error:  # of a damaged file a parser may raise anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); is it cut off or damaged?") from error
