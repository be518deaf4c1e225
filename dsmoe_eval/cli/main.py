"""The program's main command: how it reports an error, and its exit codes."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import UserError
from ..log import LOGGER

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FAILED = 1
"""The request was carried out, and the answer is no."""
EXIT_UNDECIDED = 3
"""The request could not be met: usage, data, model, run time."""


RENAMED_OPTIONS = {
    "--absent": "--missing-value",
    "--on": "--hardware",
    "--to": "--report-to",
    "--why": "--reason",
}
"""Former options, whose use is an error that names the present one."""
LEVELS = ("debug", "info", "warning", "error")
data_option = click.option(
    "--data", multiple=True, type=click.Path(path_type=Path), envvar="DSMOE_EVAL_DATA",
    help="Folder of data sets, instead of the hub; may be repeated [$DSMOE_EVAL_DATA].",
)  # fmt: skip
"""The option of every command that loads tasks."""


class _Commands(click.Group):
    """A group that shows user errors as one sentence; other errors keep their trace."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            return super().main(*args, **kwargs)
        except click.exceptions.Abort:
            _stop("interrupted; start the same command again to go on", 130)
        except KeyboardInterrupt:
            _stop("interrupted; start the same command again to go on", 130)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
        except click.NoSuchOption as error:
            new = RENAMED_OPTIONS.get(error.option_name)
            _stop(
                f"{error.option_name} is now {new}" if new else error.format_message(),
                EXIT_UNDECIDED,
            )
        except click.ClickException as error:
            _stop(error.format_message(), EXIT_UNDECIDED)
        except UserError as error:
            _stop(str(error), EXIT_UNDECIDED)
        except OSError as error:
            _stop(f"{error.filename or 'a file'}: {error.strerror or error}", EXIT_UNDECIDED)
        except Exception as error:
            from ..steering import SteeringError  # imports torch, so only once something failed

            if not isinstance(error, SteeringError):
                raise
            _stop(f"steering refused: {error}", EXIT_UNDECIDED)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"dsmoe-eval: {' '.join(message.split())}", err=True)
    sys.exit(code)


def progress_console() -> Console:
    """Return the console on which a command shows its progress: quiet above --log-level info."""
    from rich.console import Console

    level = click.get_current_context().find_root().obj
    return Console(stderr=True, quiet=level > logging.INFO)


class _Stderr(logging.Handler):
    """A handler that shows log records; a console shows stages, and warnings show themselves."""

    def emit(self, record: logging.LogRecord) -> None:
        message, fields = record.getMessage(), getattr(record, "fields", {})
        if record.levelno < logging.WARNING and not message.startswith("stage "):
            said = " ".join(f"{name}={value}" for name, value in fields.items())
            click.echo(f"{message}: {said}", err=True)


@contextmanager
def _shown_records(level: int) -> Iterator[None]:
    """Show records that appear only at --log-level debug."""
    handler = _Stderr(level)
    if level <= logging.DEBUG:
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dsmoe-eval")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True,
    help="Messages on stderr. info: the plan and the progress. debug: every cell, too. "
    "The file log.jsonl in a run's folder has all of them.",
)  # fmt: skip
@click.pass_context
def main(context: click.Context, log_level: str) -> None:
    """Measure what steering a mixture-of-experts model to a domain gains, and what it costs."""
    context.obj = logging.getLevelNamesMapping()[log_level.upper()]
    context.with_resource(_shown_records(context.obj))
    # Users can do nothing about the deprecation warnings of other libraries.
    warnings.filterwarnings("ignore", category=FutureWarning)
    if context.obj > logging.WARNING:
        warnings.filterwarnings("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
