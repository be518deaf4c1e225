"""The command that shows what runs do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .main import main, progress_console
from .terminal import EXIT_FAILED, echo


@main.command("status")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status_command(run_folder: Path, as_json: bool) -> None:
    """Show what the run in RUN does, or the runs in its subfolders; exit code 1 if one failed.

    It also is 1 if a run is not finished and no worker lives. RUN is only read, from any machine
    that sees the folder.
    """
    from rich.console import Console

    from ..executors.status import UNATTENDED, Watch, find_runs
    from ..executors.status_table import matrix_table, remarks

    watch = Watch(find_runs(run_folder))
    with progress_console().status("looking for signs of life"):
        states = watch.settled()
    if as_json:
        echo(json.dumps([one.to_dict() for one in states]))
    else:
        console = Console(highlight=False)
        console.print(matrix_table(states))
        for line in remarks(states):
            console.print(line, soft_wrap=True)
    if any(one.state in UNATTENDED for one in states):
        sys.exit(EXIT_FAILED)
