"""Commands on a plan: run, report, leakage, trial."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from .copying import folder_or_url, output_of
from .main import data_option, main, progress_console
from .terminal import EXIT_FAILED, EXIT_IDLE, echo

if TYPE_CHECKING:
    from ..executors.base import Executor
    from ..results import RunFolder
    from ..runs.leases import Shard


def _shard_of(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Shard | None:
    """Return the part of several that a text such as 2/8 names."""
    from ..runs.leases import Shard

    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})/([1-9][0-9]{0,5})", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no shard; give I/N, such as 2/8")
    try:
        return Shard(int(found[1]), int(found[2]))
    except UserError as error:
        raise click.BadParameter(str(error)) from error


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
@click.option(
    "--gpus", type=click.IntRange(min=1), multiple=True,
    help="With --dry-run: the makespan on N GPUs, simulated; may be repeated.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON, for programs.")
@click.option(
    "--executor",
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="local: this process. ray: workers on a Ray cluster, of this machine or of RAY_ADDRESS.",
)
@click.option(
    "--shard",
    metavar="I/N",
    callback=_shard_of,
    help="Answer only part I of N of the cells, beside processes with the other parts; then run "
    "without --shard to compare.",
)
def run_command(
    plan: str,
    out: Path | None,
    models: tuple[str, ...],
    data: tuple[Path, ...],
    limit: int | None,
    device: str | None,
    seed: int | None,
    dry_run: bool,
    gpus: tuple[int, ...],
    as_json: bool,
    executor: str,
    shard: Shard | None,
) -> None:
    """Run PLAN (a name or a YAML file): the whole evaluation and its report.

    Started again on the same folder, it does only what is missing. With several models, each gets a
    subfolder. Exit code 5: an arm changed nothing in the model, although it should have.
    """
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run; a run's figures are in its folder")
    if gpus and (not dry_run or device == "cpu"):
        raise click.UsageError("--gpus goes with --dry-run, and not with --device cpu")
    if shard is not None and executor != "local":
        raise click.UsageError("--shard is for schedulers without Ray; leave out --executor")
    if dry_run:
        show_estimate(plan, models, limit, data, as_json, gpus, device)
        return
    from ..executors.base import Matrix
    from ..registry import load_plan
    from ..runs import RunOptions
    from ..runs.run import run_root

    planned = load_plan(plan)[0]
    names = models or planned.models or (planned.named_model,)
    options = RunOptions(limit=limit, device=device, seed=seed, data=data)
    matrix = Matrix(plan, run_root(plan, out), names, options)
    shown = _say_shard if shard is not None else _show_report
    failures = executor_of(executor, shard).run(matrix, shown, progress_console())
    if failures:
        raise UserError(
            f"{len(failures)} of {len(names)} models were not run: {', '.join(failures)}"
        )
    if shard is None:
        _stop_if_idle([matrix.folder(name) for name in names])


def _stop_if_idle(roots: Sequence[Path]) -> None:
    """Stop with an exit code of its kind if an arm of a finished run did nothing, and name it."""
    from ..results import read_finished

    idle = {root: read_finished(root).result.of_verdict("failed") for root in roots}
    for root, failed in idle.items():
        if failed:
            count = f"{len(failed)} arms did not act"
            echo(f"dsmoe-eval: {root}: {count}: {', '.join(failed)}", err=True)
    if any(idle.values()):
        sys.exit(EXIT_IDLE)


def executor_of(name: str, shard: Shard | None) -> Executor:
    """Return the executor of this name."""
    if name == "ray":
        from ..executors.ray import RayExecutor

        return RayExecutor()
    from ..executors.local import LocalExecutor

    return LocalExecutor(shard)


def _show_report(_model: str, root: Path) -> None:
    from ..reports import render
    from ..results import RunFolder

    folder = RunFolder(root)
    page = render(folder)
    echo(page.read_text(encoding="utf-8").partition("\n## ")[0].strip())
    echo(f"\nreport: {folder.report / 'index.html'}")
    _show_hash(folder)


def _say_shard(_model: str, root: Path) -> None:
    echo(f"{root}: this shard is done; after all of them, run without --shard to compare")


def _show_hash(folder: RunFolder) -> None:
    echo(f"evidence: {folder.manifest}, root hash {folder.root_hash}")


def show_estimate(
    plan: str,
    models: tuple[str, ...],
    limit: int | None,
    data: Sequence[Path],
    as_json: bool,
    gpus: Sequence[int] = (),
    device: str | None = None,
) -> None:
    """Print the estimated cost of a plan on some models, as tables or as JSON.

    Given numbers of GPUs, it also says how long the plan takes on each.
    """
    from rich.console import Console

    from ..executors.scale import on_paper
    from ..reports.estimate import estimate_tables
    from ..reports.scale import scale_tables
    from ..runs.estimate import estimate

    with progress_console().status("reading tasks"):
        found = estimate(plan, models, limit, data)
        scale = on_paper(plan, found, gpus, device, limit) if gpus else None
    if as_json:
        more = {} if scale is None else {"scale": scale.to_dict()}
        echo(json.dumps(found.to_dict() | more))
        return
    console = Console(markup=False, emoji=False)  # a path may hold brackets
    console.print(estimate_tables(found))
    if scale is not None:
        console.print(scale_tables(scale))


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
    from ..runs.leakage import plan_leakage

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
    """Test the identification methods of PLAN against masking each expert in turn.

    In a plan with `sites: neurons` groups of neurons are masked; see docs/neurons.md.
    """
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
