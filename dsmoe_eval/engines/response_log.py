"""The file of generated answers, from which a killed run continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError
from ..files import seal, unseal, writing
from .requests import Answer, Request


class ResponseLog:
    """A file of JSON lines, one line per answer, with a key from all fields of the request.

    The answers of a batch are written at once. A last line that was not written completely is
    removed.

    Args:
        path: the file, which is created with its folder when the first answers are added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Answer]:
        """Read the answers in the file, by `request_key`; remove an incomplete last line.

        Raises:
            UserError: a line is damaged.
        """
        if not self.path.is_file():
            return {}
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))
        try:
            return dict(map(_parse, whole.split(b"\n")[:-1]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: damaged ({error}); delete it and run again") from error

    def add(self, answers: Iterable[tuple[Request, Answer]]) -> None:
        """Append answers; the scores of their tokens are not stored."""
        rows = [
            {"request": request_key(request), "tokens": answer.tokens, "reason": answer.reason}
            for request, answer in answers
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(seal(row)) + "\n" for row in rows))


def request_key(request: Request) -> str:
    """Return the first 32 hex digits of the SHA-256 of all fields of a request."""
    return hashlib.sha256(repr(request).encode()).hexdigest()[:32]


def _parse(line: bytes) -> tuple[str, Answer]:
    row = unseal(json.loads(line))
    if row["reason"] not in ("stop", "max_tokens"):
        raise ValueError(f"reason {row['reason']!r}")
    return str(row["request"]), Answer(tuple(map(int, row["tokens"])), row["reason"])
