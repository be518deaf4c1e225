"""The log of a run: records of the standard library's `logging`, written as JSON lines.

Only the arguments of `note` are logged: counts, times, names and hashes; never a question, an
answer, or anything of the environment.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from .errors import EvalWarning, QuotingError, UserError

LOGGER = logging.getLogger("dsmoe_eval")
STAGE: ContextVar[str | None] = ContextVar("stage", default=None)
"""The current stage, which `note` adds to its records."""
_FRAMES = 5
_PACKAGE = Path(__file__).resolve().parent


def note(message: str, level: int = logging.INFO, **fields: object) -> None:
    """Log a message with the current stage and with fields that JSON can represent."""
    LOGGER.log(level, message, extra={"stage": STAGE.get(), "fields": fields})


class JsonFormatter(logging.Formatter):
    """The format of a record as JSON: time (UTC, ISO 8601), level, stage, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        return json.dumps(
            {
                "time": time.isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "stage": getattr(record, "stage", None),
                "message": record.getMessage(),
                "fields": getattr(record, "fields", {}),
            }
        )


class _LogFile(logging.FileHandler):
    """A file whose failed write ends the run with a sentence, not with a trace for each record."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exception()
        if isinstance(error, OSError):
            raise UserError(
                f"{self.baseFilename}: cannot be written ({error.strerror}); free some space"
            ) from error
        super().handleError(record)


@contextmanager
def log_file(path: Path, told: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Append every record made inside to a file, warnings and the error that ends it included.

    Args:
        path: a file of JSON lines; an unfinished line of a killed process is removed.
        told: further errors whose text may be logged; for others only the traceback is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished_line(path)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    level = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    try:
        with _noted_warnings():
            yield
    except BaseException as error:
        _note_error(error, (UserError, OSError, *told))
        raise
    finally:
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)
        with suppress(OSError):  # every record was flushed, or its failure raised, before
            handler.close()


def _remove_unfinished_line(path: Path) -> None:
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as stream:
            stream.truncate(whole)


def _note_error(error: BaseException, told: tuple[type[Exception], ...]) -> None:
    """Log the error that ended a run; unexpected errors without text, as it may quote data."""
    said = isinstance(error, told) and not isinstance(error, QuotingError)
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    note(
        "interrupted" if isinstance(error, KeyboardInterrupt) else "ended by an error",
        logging.ERROR,
        type=type(error).__name__,
        text=str(error) if said else None,
        at=[f"{_place(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames],
    )


@contextmanager
def _noted_warnings() -> Iterator[None]:
    """Log Python's warnings, which are still shown; include the text of `EvalWarning` only."""
    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        note(
            "warning",
            logging.WARNING,
            type=category.__name__,
            text=str(message) if issubclass(category, EvalWarning) else None,
            at=f"{_place(filename)}:{lineno}",
        )
        shown(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def _place(filename: str) -> str:
    """Return the path of a file relative to this package, or the last two parts of its path."""
    path = Path(filename)
    if path.is_relative_to(_PACKAGE):
        return str(path.relative_to(_PACKAGE.parent))
    return "/".join(path.parts[-2:])
