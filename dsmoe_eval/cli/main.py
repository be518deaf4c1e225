"""The command itself: what is shown when something cannot be done, and its exit code."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click

from ..errors import UserError

EXIT_FAILED = 1
"""What was asked was done, and the answer is no."""
EXIT_UNDECIDED = 3
"""The request could not be met: usage, data, model, run time."""


data_option = click.option(
    "--data", multiple=True, type=click.Path(path_type=Path), envvar="DSMOE_EVAL_DATA",
    help="Data sets from this folder, not the hub; may be repeated [$DSMOE_EVAL_DATA].",
)  # fmt: skip
"""Of every command that loads tasks."""


class _Commands(click.Group):
    """Shows what a user can act on as one sentence; anything else is a bug and keeps its trace."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            return super().main(*args, **kwargs)
        except click.exceptions.Abort:
            _stop("interrupted; start the same command again to go on", 130)
        except KeyboardInterrupt:
            _stop("interrupted; start the same command again to go on", 130)
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


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dsmoe-eval")
def main() -> None:
    """What steering a mixture-of-experts model towards a domain gains, and what it costs."""
    # Third parties' notes on their own future are not for our users.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
