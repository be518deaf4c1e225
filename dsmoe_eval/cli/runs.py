"""Commands about a plan: run, report, leakage, trial."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .main import EXIT_FAILED, main

if TYPE_CHECKING:
    pass


@main.command("run")
@click.argument("plan")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run [out/<plan>].")
@click.option("--limit", type=click.IntRange(min=1), help="At most N items a task, to try it out.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
def run_command(plan: str, out: Path | None, limit: int | None, device: str | None) -> None:
    """Run PLAN (a name or a YAML file): the whole evaluation and its report.

    Started again on the same folder, it does only what is missing.
    """
    from ..reports import render
    from ..runs import run

    folder = run(plan, out, limit=limit, device=device)
    page = render(folder)
    click.echo(page.read_text(encoding="utf-8").partition("\n## ")[0].strip())
    click.echo(f"\nreport: {folder.report / 'index.html'}")


@main.command("report")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Where to [RUN_FOLDER/report].")
def report_command(run_folder: Path, to: Path | None) -> None:
    """Render the report of a finished run again."""
    from ..reports import render
    from ..runs import RunFolder

    click.echo(render(RunFolder(run_folder), to).parent)


@main.command("leakage")
@click.argument("plan")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def leakage_command(plan: str, as_json: bool) -> None:
    """List the items that PLAN's splits share, near-duplicates included; exit code 1 if any.

    Every item is that of the later split, with the first of the earlier split that it repeats.
    """
    from ..runs.job import plan_leakage

    found = plan_leakage(plan)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        for overlap in found.overlaps:
            click.echo(overlap)
        click.echo(f"overlap: {found}")
    if found.overlaps:
        sys.exit(EXIT_FAILED)


@main.command("trial")
@click.argument("plan")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run [out/<plan>].")
@click.option("--limit", type=click.IntRange(min=1), help="At most N items a task, to try it out.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
@click.option("--to", type=click.Path(path_type=Path), help="Where to render [RUN_FOLDER/trial].")
def trial_command(
    plan: str, out: Path | None, limit: int | None, device: str | None, to: Path | None
) -> None:
    """Put the identification methods of PLAN on trial against masking each expert in turn."""
    from ..reports import render_trial
    from ..runs import prepared, run_trial

    job = prepared(plan, out, limit, device)
    run_trial(job)
    click.echo(render_trial(job.folder.root, to or job.folder.root / "trial"))
