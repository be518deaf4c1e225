"""The command `simsmoe`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .main import main, progress_console
from .terminal import echo

NAMES = ("none", "balance", "published", "debiased")


@main.command("simsmoe")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out/simsmoe"), show_default=True,
    help="Folder of the trainings and of the page; what is finished in it is not done again.",
)  # fmt: skip
@click.option(
    "--objective", "objectives", type=click.Choice(NAMES), multiple=True,
    help="An objective [all]; may be repeated.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True,
    help="Number of models of each objective.",
)  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(min=20), default=640, show_default=True,
    help="Steps of each training.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be trained, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def simsmoe_command(
    out: Path, objectives: tuple[str, ...], seeds: int, steps: int, dry_run: bool, as_json: bool
) -> None:
    """Train small mixtures of experts with and without SimSMoE, and measure their experts.

    Four objectives: the text alone (none), with a load-balancing loss (balance), with SimSMoE's
    published loss on similar experts (published), and with a debiased one (debiased). A training
    that was stopped goes on where it was last saved.
    """
    from ..reports import render_simsmoe
    from ..studies import SimsmoePlan, simsmoe

    plan = SimsmoePlan.of(objectives or NAMES, seeds, steps)
    console = progress_console()
    console.print(plan.described(), highlight=False)
    if dry_run:
        if as_json:
            echo(json.dumps(asdict(plan)))
        return
    result = simsmoe(plan, out, console)
    page = render_simsmoe(result, out)
    if as_json:
        echo(json.dumps(result))
        return
    echo(page.read_text(encoding="utf-8").partition("\n## ")[0].strip())
    echo(f"\nreport: {page}")
