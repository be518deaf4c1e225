"""Commands on a plan: run, report, leakage, trial."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from .copying import folder_or_url, output_of
from .main import data_option, main, progress_console
from .terminal import EXIT_FAILED, echo

if TYPE_CHECKING:
    from ..results import RunFolder
    from ..runs import RunOptions


@main.command("run")
@click.argument("plan")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run [out/<plan>].")
@click.option(
    "--model", "models", multiple=True, help="Model instead of the plan's; may be repeated."
)
@data_option
@click.option(
    "--limit", type=click.IntRange(min=1),
    help="Smoke test: at most N items per task, and answers of at most 2 N tokens.",
)  # fmt: skip
@click.option("--device", help="A torch device [the first GPU, else cpu].")
@click.option("--seed", type=click.IntRange(min=0), help="Seed instead of the plan's.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan, its cost and the smallest effects it can show; run nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON, for programs.")
def run_command(
    plan: str,
    out: Path | None,
    models: tuple[str, ...],
    data: tuple[Path, ...],
    limit: int | None,
    device: str | None,
    seed: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run PLAN (a name or a YAML file): the whole evaluation and its report.

    Started again on the same folder, it does only what is missing. With several models, each gets a
    subfolder.
    """
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run; a run's figures are in its folder")
    if dry_run:
        show_estimate(plan, models, limit, data, as_json)
        return
    from ..registry import load_plan
    from ..runs import RunOptions

    names = models or load_plan(plan)[0].models
    root = out or Path("out") / Path(plan).stem
    options = RunOptions(limit=limit, device=device, seed=seed, data=data)
    if len(names) < 2:
        _run_one(plan, root, replace(options, model=names[0] if names else None))
        return
    failed = {}
    for name in names:
        try:
            _run_one(plan, root / _folder_name(name), replace(options, model=name))
        except UserError as error:
            failed[name] = str(error)
            echo(f"dsmoe-eval: model {name!r}: {error}", err=True)
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} models were not run: {', '.join(failed)}")


def _folder_name(model: str) -> str:
    return re.sub(r"[^\w.-]+", "--", model.strip("/"))


def _run_one(plan: str, out: Path, options: RunOptions) -> None:
    from ..reports import render
    from ..runs.run import run_with

    folder = run_with(plan, out, options, progress_console())
    page = render(folder)
    echo(page.read_text(encoding="utf-8").partition("\n## ")[0].strip())
    echo(f"\nreport: {folder.report / 'index.html'}")
    _show_hash(folder)


def _show_hash(folder: RunFolder) -> None:
    echo(f"evidence: {folder.manifest}, root hash {folder.root_hash}")


def show_estimate(
    plan: str,
    models: tuple[str, ...],
    limit: int | None,
    data: Sequence[Path],
    as_json: bool,
) -> None:
    """Print the estimated cost of a plan on some models, as tables or as JSON."""
    from rich.console import Console

    from ..reports.estimate import estimate_tables
    from ..runs.estimate import estimate

    with progress_console().status("reading tasks"):
        found = estimate(plan, models, limit, data)
    if as_json:
        echo(json.dumps(found.to_dict()))
    else:
        Console(markup=False, emoji=False).print(estimate_tables(found))  # a path may hold brackets


@main.command("report")
@click.argument("run_folder", type=folder_or_url)
@click.option(
    "--report-to", type=click.Path(path_type=Path), help="Folder of the report [RUN_FOLDER/report]."
)
def report_command(run_folder: Path, report_to: Path | None) -> None:
    """Render the report of a finished run again; RUN_FOLDER may be a copy's URL."""
    from ..reports import render
    from ..results import RunFolder

    folder = RunFolder(run_folder)
    echo(render(folder, report_to or output_of(run_folder, "--report-to") / "report").parent)


@main.command("leakage")
@click.argument("plan")
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def leakage_command(plan: str, data: tuple[Path, ...], as_json: bool) -> None:
    """List the items that PLAN's splits share, near-duplicates included; exit code 1 if any.

    Every item is that of the later split, with the first of the earlier split that it repeats.
    """
    from ..tasks.splits import plan_leakage

    found = plan_leakage(plan, data)
    if as_json:
        echo(json.dumps(found.to_dict()))
    else:
        for overlap in found.overlaps:
            echo(overlap)
        echo(f"overlap: {found}")
    if found.overlaps:
        sys.exit(EXIT_FAILED)


@main.command("trial")
@click.argument("plan")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run [out/<plan>].")
@click.option("--limit", type=click.IntRange(min=1), help="Smoke test: at most N items per task.")
@click.option("--device", help="A torch device [the first GPU, else cpu].")
@data_option
@click.option(
    "--report-to", type=click.Path(path_type=Path), help="Folder of the report [RUN_FOLDER/trial]."
)
def trial_command(
    plan: str,
    out: Path | None,
    limit: int | None,
    device: str | None,
    data: tuple[Path, ...],
    report_to: Path | None,
) -> None:
    """Test the identification methods of PLAN against masking each expert in turn."""
    from ..reports import render_trial
    from ..runs import RunOptions, prepared
    from ..studies import run_trial

    console = progress_console()
    options = RunOptions(limit=limit, device=device, data=data)
    job = prepared(plan, out, options, console)
    try:
        run_trial(job, console)
    finally:
        job.close()
    echo(render_trial(job.folder.root, report_to or job.folder.root / "trial"))
    _show_hash(job.folder)
