"""Generated answers in a file as they come, so that what was killed goes on where it stood."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError
from ..files import seal, unseal, writing
from .requests import Answer, Request


class ResponseLog:
    """JSON lines, one an answer, found again by a request's every field.

    Answers of one batch are written at once, and a line that was not written to its end goes away.

    Args:
        path: made with its folder when the first answers come.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Answer]:
        """What the file holds, by `request_key`.

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
        """Append answers; scores of their tokens are not kept."""
        rows = [
            {"request": request_key(request), "tokens": answer.tokens, "reason": answer.reason}
            for request, answer in answers
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(seal(row)) + "\n" for row in rows))


def request_key(request: Request) -> str:
    """First 32 hex digits of the SHA-256 over all fields."""
    return hashlib.sha256(repr(request).encode()).hexdigest()[:32]


def _parse(line: bytes) -> tuple[str, Answer]:
    row = unseal(json.loads(line))
    if row["reason"] not in ("stop", "max_tokens"):
        raise ValueError(f"reason {row['reason']!r}")
    return str(row["request"]), Answer(tuple(map(int, row["tokens"])), row["reason"])
