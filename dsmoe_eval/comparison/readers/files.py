"""Files that may be damaged, truncated, huge or hostile: read within limits, or refused."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar, cast

from ...errors import UserError

LONGEST_LINE = 64 * 2**20
"""In bytes."""
LONGEST_LIST = 2 * 2**30
"""The most bytes of a JSON file that is one list of records."""
MOST_ROWS = 20_000_000
MOST_BYTES = 8 * 2**30
"""The most bytes of a file, uncompressed."""

Record = Mapping[str, object]
_DAMAGE = (OSError, EOFError, zlib.error, UnicodeError)
T = TypeVar("T")


def check_file(path: Path) -> None:
    """Refuse what is not a regular file of a size that can be read.

    Raises:
        UserError: the path is not such a file.
    """
    if not path.is_file():  # a pipe or a device might never end
        problem = "is not a regular file" if path.exists() else "does not exist"
        raise UserError(f"{path}: {problem}; give the path of a file with results")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path}: the file is empty; write it again")
    if size > MOST_BYTES:
        raise UserError(
            f"{path}: {size / 2**30:.0f} GiB is more than the {MOST_BYTES / 2**30:.0f} GiB that "
            "can be read; split it by task"
        )


def open_utf8(path: Path) -> IO[bytes]:
    """Open a text file, perhaps gzipped, as UTF-8 without a byte order mark.

    Text in UTF-16 is decoded if the file begins with a byte order mark.

    Raises:
        UserError: the file cannot be read, or holds NUL bytes, as UTF-16 without a mark does.
    """
    check_file(path)
    raw = path.open("rb")
    unpacked = cast("io.RawIOBase", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    buffered = io.BufferedReader(cast("io.RawIOBase", unpacked))
    start = buffered.peek(4096)[:4096]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return io.BytesIO(_whole(path, buffered).decode("utf-16").encode())
    if b"\0" in start:
        raise UserError(
            f"{path}: holds NUL bytes, as text in UTF-16 without a byte order mark does; save it "
            "as UTF-8"
        )
    if start.startswith(codecs.BOM_UTF8):
        buffered.read(len(codecs.BOM_UTF8))
    return buffered


def json_records(path: Path) -> Iterator[tuple[str, Record]]:
    r"""Yield the objects of a JSON file, perhaps gzipped, each with its location in words.

    The file holds one object per line (JSONL) or is one list of objects. Lines end at "\n" only,
    since JSON strings may contain U+2028 and its like unescaped.

    Raises:
        UserError: a line is too long, or is not a JSON object.
    """
    if is_json_list(path):
        yield from _listed(path)
        return
    for number, line in enumerate(_lines(path), start=1):
        if number > MOST_ROWS:
            raise UserError(f"{path}: more than {MOST_ROWS:,} lines; split it by task")
        if line.strip():
            where = f"{path}, line {number}"
            yield where, json_object(line, where)


def is_json_list(path: Path) -> bool:
    """Return whether the first character of a text file, after blanks, opens a JSON list.

    Raises:
        UserError: the file cannot be read.
    """
    with _reading(path) as file:
        start = file.read(4096).lstrip()
    return start.startswith(b"[") and not start.startswith(b"[[")


def _listed(path: Path) -> Iterator[tuple[str, Record]]:
    with _reading(path) as file:
        text = _whole(path, file)
    records = _parsed(text, str(path))
    assert isinstance(records, list)  # noqa: S101 - it begins with a bracket
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        yield where, _checked_object(record, where)


def _whole(path: Path, file: IO[bytes] | io.BufferedReader) -> bytes:
    text = file.read(LONGEST_LIST + 1)
    if len(text) > LONGEST_LIST:
        raise UserError(
            f"{path}: more than 2 GiB in one JSON list or in UTF-16; write one record per line, in "
            "UTF-8"
        )
    return text


def json_object(text: bytes, where: str) -> Record:
    """Parse a JSON object.

    Args:
        text: the JSON text, in UTF-8.
        where: the location in words, with which messages begin.

    Raises:
        UserError: the text is not a JSON object.
    """
    return _checked_object(_parsed(text, where), where)


def _parsed(text: bytes, where: str) -> object:
    try:
        value: object = json.loads(text)
    except RecursionError as error:
        raise UserError(
            f"{where}: JSON nested too deeply to be a result; write the file again"
        ) from error
    except ValueError as error:  # not JSON, not UTF-8, a number of too many digits
        reason = str(error).split("\n")[0][:120]
        raise UserError(
            f"{where}: not valid JSON ({reason}); if the file is cut off or damaged, write it again"
        ) from error
    return value


def _checked_object(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: expected a JSON object, not {type(value).__name__}; write one object per "
            "line, or one list of objects"
        )
    return value


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    with _reading(path) as file:
        try:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise UserError(
                        f"{path}, line {number}: longer than 64 MiB; write one record per line"
                    )
                yield line
        except _DAMAGE as error:
            raise UserError(_unreadable(path, error, f"after line {number} ")) from error


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open_utf8(path) as file:
            yield file
    except _DAMAGE as error:
        raise UserError(_unreadable(path, error)) from error


def by_library(path: Path, read: Callable[[], T]) -> T:
    """Call a third party's reader on a file, and turn any exception into one sentence.

    Raises:
        UserError: the reader failed.
    """
    try:
        return read()
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory; split it by task") from error
    except Exception as error:  # given a damaged file, a parser may raise anything
        raise UserError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception, where: str = "") -> str:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
    reason = reason or type(error).__name__
    if path.suffix != ".parquet" and "utf8" in reason.lower().replace("-", ""):
        return f"{path}: cannot be read {where}as UTF-8 ({reason}); save the file as UTF-8"
    return (
        f"{path}: cannot be read {where}({reason}); if the file is cut off or damaged, write it "
        "again"
    )
