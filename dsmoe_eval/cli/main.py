"""The program's main command: its options and what all commands share."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UserError, printable
from ..log import LOGGER
from .terminal import EXIT_UNDECIDED, LEVELS, echo, stop, stop_by

if TYPE_CHECKING:
    from rich.console import Console

    from ..steering import Profile, Sites

RENAMED_OPTIONS = {
    "--absent": "--missing-value",
    "--on": "--hardware",
    "--to": "--report-to",
    "--why": "--reason",
}
"""Former options, whose use is an error that names the present one."""
data_option = click.option(
    "--data", multiple=True, type=click.Path(path_type=Path), envvar="DSMOE_EVAL_DATA",
    help="Folder of data sets, instead of the hub; may be repeated [$DSMOE_EVAL_DATA].",
)  # fmt: skip
"""The option of every command that loads tasks."""
PRECISIONS = ("float32", "bfloat16", "float16")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""The values that a plan may have; here again, since a card's classes take long to import."""


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that loads a model."""
    of_dtype = click.option(
        "--dtype", type=click.Choice(PRECISIONS),
        help="The dtype of the weights in memory [the checkpoint's].",
    )  # fmt: skip
    of_attention = click.option(
        "--attn-implementation", type=click.Choice(ATTENTIONS),
        help="How transformers computes attention [as transformers chooses].",
    )  # fmt: skip
    return of_dtype(of_attention(command))


def report_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a study: the report's folder, JSON, and the folder of passes."""
    of_out = click.option(
        "--out", type=click.Path(path_type=Path), help="Folder of the report."
    )  # fmt: skip
    of_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    of_observations = click.option(
        "--observations", type=click.Path(path_type=Path),
        help="Folder of passes, which are reused [out/observations].",
    )  # fmt: skip
    return of_out(of_json(of_observations(command)))


def sites_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what is counted and steered: experts, or neurons."""
    of_block = click.option(
        "--block", type=click.IntRange(min=1),
        help="With --sites neurons: neighbouring neurons that are one unit [1].",
    )  # fmt: skip
    of_sites = click.option(
        "--sites", type=click.Choice(["experts", "neurons"]), default="experts", show_default=True,
        help="What is counted and steered: routed experts, or the neurons of a dense model.",
    )  # fmt: skip
    return of_sites(of_block(command))


def given_sites(sites: str, block: int | None, profile: Profile | None = None) -> Sites:
    """Return the sites of a profile, or without one those that the options name.

    Raises:
        UserError: blocks of experts.
    """
    from ..steering import Sites

    if profile is not None:
        return profile.sites
    if sites == "experts" and block is not None:
        raise UserError("--block is for --sites neurons; leave it out, or add --sites neurons")
    return Sites.model_validate({"kind": sites, "block": block or 1})


class _Commands(click.Group):
    """A group that ends with one sentence and an exit code after every error."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            return super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
        except click.NoSuchOption as error:
            new = RENAMED_OPTIONS.get(error.option_name)
            words = f"{error.option_name} is now {new}" if new else error.format_message()
            stop(words, EXIT_UNDECIDED)
        except (Exception, KeyboardInterrupt) as error:
            given: Sequence[str] = kwargs.get("args") or (args[0] if args else sys.argv[1:])
            stop_by(error, given)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception:
            if ctx.obj is not None and ctx.obj <= logging.DEBUG:
                echo(traceback.format_exc(), err=True)
            raise


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
            echo(f"{message}: {said}", err=True)


@contextmanager
def _shown_records(level: int) -> Iterator[None]:
    """Show records that appear only at --log-level debug.

    Libraries, vLLM among them, may give the root logger a handler that would show every record.
    """
    handler, before = _Stderr(level), LOGGER.propagate
    LOGGER.propagate = False
    if level <= logging.DEBUG:
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.propagate = before
        LOGGER.removeHandler(handler)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dsmoe-eval")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True,
    help="Messages on stderr. info: the plan and the progress. debug: every cell, and an "
    "error's trace. The file log.jsonl in a run's folder has all of them.",
)  # fmt: skip
@click.pass_context
def main(context: click.Context, log_level: str) -> None:
    """Measure what steering a mixture-of-experts model to a domain gains, and what it costs."""
    context.obj = logging.getLevelNamesMapping()[log_level.upper()]
    context.with_resource(_shown_records(context.obj))
    shown = warnings.formatwarning  # a warning may quote data
    warnings.formatwarning = lambda *of, **by: printable(shown(*of, **by))
    context.call_on_close(partial(setattr, warnings, "formatwarning", shown))
    # Users can do nothing about the deprecation warnings of other libraries.
    warnings.filterwarnings("ignore", category=FutureWarning)
    if context.obj > logging.WARNING:
        warnings.filterwarnings("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
