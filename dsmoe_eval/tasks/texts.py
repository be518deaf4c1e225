"""Text documents of the user: read from JSON lines or a folder, and cut into chunks.

A document is one text of one domain. All chunks of a document are one document for every statistic.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import read_limited
from .items import digest

CHUNK_CHARACTERS = 500
"""The default length of a chunk, about 110 tokens of English."""
CHUNKS = 4
"""The default number of chunks that are read of a user's document, its first ones: a few show what
a document routes, and every one costs a pass of each model."""
SUFFIXES = (".txt", ".md")
DOMAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_MOST_BYTES = 2**28
_SEPARATOR = re.compile(r"^-{3,}[ \t]*$", re.MULTILINE)
_AS_JSON = (
    "write one JSON object per line with `text` and `domain`, or give plain text files in a folder "
    "by --text-dir"
)


@dataclass(frozen=True, slots=True)
class TextDocument:
    """One text of a domain.

    Attributes:
        where: file, and line or part, for messages.
        split: the value of the key `split`; empty without it.
    """

    domain: str
    text: str
    where: str
    split: str = ""

    @property
    def id(self) -> str:
        """A hash of its content."""
        return digest(self.text)


def read_text_file(path: Path) -> tuple[TextDocument, ...]:
    """Read the documents of a file of JSON lines, `.jsonl` or `.jsonl.gz`.

    Each line is an object with `text` and `domain`; other keys are allowed.

    Raises:
        UserError: the file cannot be read, a line is no such object, a text is empty or repeats
            another of its domain.
    """
    data = read_limited(path, _MOST_BYTES)
    try:
        text = (_unpacked(path, data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); write the file again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it in UTF-8") from error
    # Not str.splitlines, which also splits at U+2028 inside a text.
    lines = enumerate(text.split("\n"), start=1)
    return _checked(path, (_parsed(f"{path}, line {n}", line) for n, line in lines if line.strip()))


def _unpacked(path: Path, data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        text = stream.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise UserError(f"{path}: unpacks to more than {_MOST_BYTES / 1e6:,.0f} MB; split the file")
    return text


def _parsed(where: str, line: str) -> TextDocument:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); {_AS_JSON}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; {_AS_JSON}")
    for key in ("text", "domain"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"{where}: `{key}` is missing, empty or no text; {_AS_JSON}")
    split = row.get("split", "")
    if not isinstance(split, str):
        raise UserError(f"{where}: `split` is no text; give the name of a split, or leave it out")
    return _document(row["domain"], row["text"], where, split)


def read_text_folder(folder: Path) -> tuple[TextDocument, ...]:
    """Read the documents of a folder with one sub-folder or one file per domain.

    Every `.txt` and `.md` file of a sub-folder is one document. A file beside the sub-folders is a
    domain, and its documents are separated by lines of three or more hyphens.

    Raises:
        UserError: the folder or a file cannot be read, holds another kind of file, or as in
            `read_text_file`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; give one with a sub-folder or file per domain")
    return _checked(folder, _of_folder(folder))


def _of_folder(folder: Path) -> Iterator[TextDocument]:
    for entry in _visible(folder):
        if entry.is_dir():
            for path in _visible(entry):
                yield _document(entry.name, _plain(path), str(path))
            continue
        parts = [part for part in _SEPARATOR.split(_plain(entry)) if part.strip()]
        for number, part in enumerate(parts or [""], start=1):
            yield _document(entry.stem, part, f"{entry}, part {number}")


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _plain(path: Path) -> str:
    if path.suffix not in SUFFIXES or not path.is_file():
        raise UserError(
            f"{path}: only {' and '.join(SUFFIXES)} files are read, in one folder per domain; move "
            "it away or save it as text"
        )
    try:
        return read_limited(path, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it in UTF-8") from error


def _document(domain: str, text: str, where: str, split: str = "") -> TextDocument:
    if not DOMAIN.fullmatch(domain):
        raise UserError(
            f"{where}: the domain {domain!r:.60} is no name; use letters, digits, `.`, `_`, `+` "
            "and `-`, such as computer-science"
        )
    if not text.strip():
        raise UserError(f"{where}: the text is empty; give it text, or take it away")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: the text has half of a surrogate pair; write it in UTF-8")
    return TextDocument(domain, text.strip(), where, split)


def _checked(source: Path, documents: Iterator[TextDocument]) -> tuple[TextDocument, ...]:
    seen: dict[str, TextDocument] = {}
    for one in documents:
        other = seen.setdefault(one.id, one)
        if other is not one:
            raise UserError(
                f"{one.where}: the same text as {other.where}; leave one of them out, since a text "
                "that is read twice is no second document"
            )
    if not seen:
        raise UserError(f"{source}: holds no document; {_AS_JSON}")
    return tuple(seen.values())


def cut_text(text: str, characters: int = CHUNK_CHARACTERS) -> tuple[str, ...]:
    """Split a text at white space into chunks of like length, of at most `characters` each.

    Only a word that is longer than that is cut inside.
    """
    text, start, chunks = text.strip(), 0, []
    while start < len(text):
        parts = math.ceil((len(text) - start) / characters)
        word = text[start : start + characters].split(maxsplit=1)[0]  # whole, if it fits
        size = max(math.ceil((len(text) - start) / parts), len(word))
        chunks.append(word_prefix(text[start : start + size + 1], size))
        start += len(chunks[-1])
        while text[start : start + 1].isspace():
            start += 1
    return tuple(chunk.rstrip() for chunk in chunks)


def word_prefix(text: str, characters: int) -> str:
    """Return the longest prefix of whole words of at most `characters`; a longer word is cut."""
    if len(text) <= characters or text[characters].isspace():
        return text[:characters]
    cut = max((match.start() for match in re.finditer(r"\s", text[:characters])), default=0)
    return text[: cut or characters]


def documents_by_domain(documents: Sequence[TextDocument]) -> dict[str, list[TextDocument]]:
    """Group documents by their domains, in the order of first appearance."""
    groups: dict[str, list[TextDocument]] = {}
    for one in documents:
        groups.setdefault(one.domain, []).append(one)
    return groups
