"""The command that compares steering on two checkpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from ..files import locked, write_json
from .copying import result_or_url
from .gate import print_verdict
from .main import data_option, main, progress_console
from .runs import show_estimate
from .terminal import echo

if TYPE_CHECKING:
    from ..gates import Verdict
    from ..results.regression import ArmRegression, RegressionResult, Side
    from ..runs import RunOptions

_EXAMPLES = """\b
  dsmoe-eval regress path/to/old path/to/new --plan controls --dry-run
  dsmoe-eval regress path/to/old path/to/new --plan controls --out out/release
  dsmoe-eval regress out/release/old out/release/new
"""


@main.command("regress", epilog=_EXAMPLES)
@click.argument("old", type=result_or_url)
@click.argument("new", type=result_or_url)
@click.option("--plan", help="Plan (a name or a YAML file) to run on the models.")
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Folder of the runs and of the result [out/<plan>-regress].",
)  # fmt: skip
@data_option
@click.option(
    "--limit", type=click.IntRange(min=1), help="Smoke test, as of `run`; it fails the policy."
)
@click.option("--device", help="A torch device [the first GPU, else cpu].")
@click.option("--seed", type=click.IntRange(min=0), help="Seed instead of the plan's.")
@click.option("--policy", default="regression", show_default=True, help="A policy's name or file.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its cost; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def regress_command(
    old: str,
    new: str,
    plan: str | None,
    out: Path | None,
    data: tuple[Path, ...],
    limit: int | None,
    device: str | None,
    seed: int | None,
    policy: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check whether steering that worked on OLD still works on NEW.

    OLD and NEW are two models, on each of which the plan is run, in OUT/old and OUT/new; or folders
    or URLs of finished runs of one plan. Experts are found and settings are tuned for each model.
    The gains are compared item by item. Writes OUT/regression.json, and the verdict of the policy
    to OUT/gate. Exit codes are those of `gate`: 0 pass, 1 fail, 2 inconclusive.
    """
    from ..runs import RunOptions

    options = RunOptions(limit=limit, device=device, seed=seed, data=data)
    if dry_run:
        _show_plan(old, new, plan, options, as_json)
        return
    folder = out or Path("out") / ("regress" if plan is None else f"{Path(plan).stem}-regress")
    result, verdict = _regress(old, new, plan, folder, options, policy)
    if as_json:
        values = {name: one.model_dump(mode="json")
                  for name, one in (("regression", result), ("verdict", verdict))}  # fmt: skip
        echo(json.dumps(values, allow_nan=False))
    else:
        echo("\n".join(as_lines(result)) + "\n")
        print_verdict(verdict)
    sys.exit(verdict.exit_code)


def _show_plan(old: str, new: str, plan: str | None, options: RunOptions, as_json: bool) -> None:
    from ..comparison.checkpoint_runs import finished_runs

    known = finished_runs(old, new, plan, options)
    for name, run in known.items():
        echo(f"{name}: {run.name} is finished", err=as_json)
    models = tuple(source for name, source in (("old", old), ("new", new)) if name not in known)
    if plan is not None and models:
        show_estimate(plan, models, options.limit, options.data, as_json)
    elif as_json:
        echo("{}")


def _regress(
    old: str, new: str, plan: str | None, folder: Path, options: RunOptions, policy: str
) -> tuple[RegressionResult, Verdict]:
    from ..comparison.checkpoint_runs import run_both
    from ..comparison.regression import compare_checkpoints
    from ..gates import changes_between, clear, decide, write_verdict
    from ..registry import load_policy
    from ..reports import render

    wanted = load_policy(policy)  # a mistake in it shows before the models run
    if (folder / "run.json").exists():  # its own verdict would be lost
        raise UserError(f"{folder}: is the folder of a run; name another one with --out")
    with locked(folder):
        clear(folder / "gate")
        (folder / "regression.json").unlink(missing_ok=True)
        before, after = run_both(old, new, plan, folder, options, progress_console())
        result = compare_checkpoints(before, after)
        verdict = decide(after, wanted, changes_between(after, before))
        write_json(folder / "regression.json", result.model_dump(mode="json"))
        write_verdict(verdict, folder / "gate")
        for run in (before, after):
            if run.folder is not None and run.folder.root.parent == folder:
                render(run.folder)
    return result, verdict


def as_lines(result: RegressionResult) -> Iterator[str]:
    """Yield the lines of a result for a person."""
    yield f"plan {result.plan} on suite {result.suite}, primary outcome: {result.outcome}"
    yield from (f"{name}  {side.model}: {side.run}" for name, side in _sides(result))
    yield from (f"note: {note}" for note in result.notes)
    if (routing := result.routing) is not None:
        yield (
            f"routing: {routing.shared:.1%} of selections are the same, {routing.by_chance:.1%} "
            f"by chance ({routing.tokens:,} tokens, {len(routing.layers)} layers)"
        )
    for arm in result.arms:
        yield ""
        yield from _block(arm)


def _sides(result: RegressionResult) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return ("old", result.old), ("new", result.new)


def _block(arm: ArmRegression) -> Iterator[str]:
    yield f"{arm.variant} on {arm.target}"
    yield f"  old        {arm.old_claim}"
    yield f"  new        {arm.new_claim}"
    yield f"  new - old  {arm.gain.claim}"
    yield f"  elsewhere  {arm.elsewhere.claim}"
    if (experts := arm.experts) is not None:
        yield (
            f"  experts    {experts.old} and {experts.new}; of all these {experts.jaccard:.1%} in "
            f"both, {experts.by_chance:.1%} by chance"
        )
