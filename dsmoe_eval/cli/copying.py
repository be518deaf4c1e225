"""The command that copies folders to and from URLs, and the parameters that may be URLs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..storage import is_url, shown
from .main import main, progress_console
from .terminal import echo


def folder_or_url(text: str) -> Path:
    """Return a path, of a URL that of a checked local copy: the type of a parameter."""
    return Path(_local(text))


def result_or_url(text: str) -> str:
    """Return the name of a result, such as `RUN:base`, a URL in it replaced as above."""
    return _local(text)


def _local(text: str) -> str:
    if not is_url(text):
        return text
    from ..storage.copies import local_copy

    above, slash, last = text.rpartition("/")
    name, colon, which = last.partition(":")
    path = local_copy(above + slash + name, progress_console())
    return f"{path}{colon}{which}"


def output_of(folder: Path, option: str) -> Path:
    """Return the folder to write to unless an option names one: that of the run.

    Raises:
        UsageError: the run is at a URL.
    """
    if (url := shown(str(folder))) != str(folder):
        raise click.UsageError(f"{url}: is only read; name a folder of this machine with {option}")
    return folder


@main.command("copy")
@click.argument("source")
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def copy_command(source: str, target: str, as_json: bool) -> None:
    """Copy SOURCE to TARGET, each a folder or a URL: s3://BUCKET/RUN, gs://..., file:///...

    SOURCE is a run's folder, also of a run that goes on (its finished cells are copied); a report,
    a gate's output, or another folder. Every file is checked by its SHA-256. The same command again
    goes on after a fault, and copies only what has changed.
    """
    from ..results.copying import copy

    done = copy(source, target, progress_console())
    if as_json:
        echo(json.dumps({"source": source, "target": target, **asdict(done)}))
        return
    for name in done.changed:
        echo(f"written again, since it was changed there: {name}")
    rest = f"; {done.files - done.moved} were there already" if done.moved < done.files else ""
    echo(f"copied {done.moved} of {done.files} files, {done.size:,} bytes, to {target}{rest}")
