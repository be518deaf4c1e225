"""The output of a command, and its end: one sentence and an exit code, without a trace."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from ..errors import UserError, out_of_memory, printable
from ..files import FREE_SPACE, full_disk
from ..storage import shown

EXIT_FAILED = 1
"""The request was carried out, and the answer is no."""
EXIT_UNDECIDED = 3
"""The request could not be met: usage, data, model, run time."""
EXIT_IDLE = 5
"""The request was carried out, and an arm of the run did nothing that it should have done."""
EXIT_CRASHED = 4
"""The program is wrong: an error that was not foreseen."""
EXIT_INTERRUPTED = 130
LEVELS = ("debug", "info", "warning", "error")
"""The values of the option that may come before a command."""
_LONGEST_COMMAND = 200
_GOES_ON = ("run", "trial", "regress", "identify", "influence", "stability", "simsmoe", "copy")
"""The commands that keep what they computed; of `lab train`, lab-smol does so too."""


def echo(text: object, err: bool = False) -> None:
    """Print text, which may quote data, without characters that would command the terminal.

    Local copies of what is at a URL are named by that URL.
    """
    click.echo(printable(shown(str(text))), err=err)


def stop(message: str, code: int) -> NoReturn:
    """Stop the program with one sentence on stderr."""
    echo(f"dsmoe-eval: {' '.join(message.split())}", err=True)
    sys.exit(code)


def stop_by(error: BaseException, command: Sequence[str]) -> NoReturn:
    """Stop the program because of an error, with one sentence, which may name a log file.

    Args:
        error: what ended the command.
        command: the words of the command line.
    """
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        stop(f"interrupted; {_what_is_kept(command)}", EXIT_INTERRUPTED)
    if isinstance(error, click.ClickException):
        stop(error.format_message(), EXIT_UNDECIDED)
    if isinstance(error, UserError):
        stop(str(error), EXIT_UNDECIDED)
    if _is_steering_error(error):
        stop(f"steering refused: {error}", EXIT_UNDECIDED)
    doing = _what_was_done(error, command)
    if out_of_memory(error):
        stop(
            f"{doing}: the memory does not suffice; take a machine or device with more of it, a "
            "smaller model, or fewer items with --limit",
            EXIT_UNDECIDED,
        )
    if isinstance(error, OSError):
        stop(f"{error.filename or doing}: {_reason(error)}", EXIT_UNDECIDED)
    _crash(error, doing)


def _what_is_kept(command: Sequence[str]) -> str:
    """Return whether the command goes on where it was interrupted, if it is started again."""
    words = [word for word in command if not word.startswith("-") and word not in LEVELS]
    if words[:1] in [[name] for name in _GOES_ON] or {"train", "lab-smol"} <= set(words):
        return "start the same command again to go on"
    return "nothing was kept; the same command starts from the beginning"


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return reason + (f"; {FREE_SPACE}" if full_disk(error) else "")


def _crash(error: BaseException, doing: str) -> NoReturn:
    """Write the trace to a file: it may quote data, and is for a bug report, not for the screen."""
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace",
            prefix="dsmoe-eval-", suffix=".log", delete=False,
        ) as file:  # fmt: skip
            file.write(f"{doing}\n{trace}")
        where = f"the trace is in {file.name}"
    except OSError:
        echo(trace, err=True)
        where = "the trace is above, since it could not be written to a file"
    words = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_COMMAND]
    stop(f"{doing}: an error in the program ({words}); {where}: please report it", EXIT_CRASHED)


def _is_steering_error(error: BaseException) -> bool:
    """Return whether the core refused; without importing it, and torch, if nothing else has."""
    core = sys.modules.get("dsmoe_eval.steering.errors")
    return core is not None and isinstance(error, core.SteeringError)


def _what_was_done(error: BaseException, command: Sequence[str]) -> str:
    """Return the command, and the stage that `progress` noted at the error."""
    return ", ".join([" ".join(command)[:_LONGEST_COMMAND], *getattr(error, "__notes__", ())])
