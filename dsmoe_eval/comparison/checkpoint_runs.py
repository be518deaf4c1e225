"""One plan on two checkpoints: the runs that are there are read, the others are run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..registry import load_plan
from ..results.finished import FinishedRun, read_finished
from ..runs.options import AS_PLANNED, RunOptions
from ..runs.run import run_with
from ..runs.sizes import size_of
from .regression import check_run_of


def run_both(
    old: str,
    new: str,
    plan: str | None,
    out: Path,
    options: RunOptions = AS_PLANNED,
    console: Console | None = None,
) -> tuple[FinishedRun, FinishedRun]:
    """Return the runs of a plan on two models, in `out/old` and `out/new` unless they are there.

    Started again on the same folder, it does only what is missing.

    Args:
        old: the earlier model, by a name as for `models.load_model`, or the folder of a finished
            run.
        new: the later model or run.
        plan: the name or path of the plan; None: both are finished runs.
        out: the folder of the runs.
        options: the settings beside the plan, without a model.
        console: the console on which plan and progress are shown; by default stderr.

    Raises:
        UserError: a run cannot be read or made, or has other settings.
    """
    sides = {"old": old, "new": new}
    known = finished_runs(old, new, plan, options)
    for name, source in sides.items():
        if plan is not None and name not in known:  # before the other one has run for hours
            size_of(source, load_plan(plan)[0].of("", options.seed))
    for name, source in sides.items():
        if plan is not None and name not in known:
            folder = run_with(plan, out / name, replace(options, model=source), console)
            known[name] = read_finished(folder.root)
    return known["old"], known["new"]


def finished_runs(
    old: str, new: str, plan: str | None, options: RunOptions = AS_PLANNED
) -> dict[str, FinishedRun]:
    """Return those of `old` and `new` that are folders of finished runs, checked against the plan.

    Raises:
        UserError: a run is not finished, or has other settings; or a model has no plan.
    """
    known = {}
    for name, source in (("old", old), ("new", new)):
        path = Path(source)
        if any((path / file).is_file() for file in ("run.json", "comparisons.json")):
            known[name] = read_finished(path)
        elif plan is None:
            raise UserError(f"{source} is no run's folder; give --plan to run a plan on that model")
    if plan is not None:
        wanted = load_plan(plan)[0].of("", options.seed)
        for run in known.values():
            check_run_of(run, wanted, options.limit)
    return known
