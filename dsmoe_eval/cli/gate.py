"""The command that checks a run against a policy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..files import locked
from .copying import folder_or_url, output_of, result_or_url
from .main import main
from .terminal import echo

if TYPE_CHECKING:
    from ..gates import Verdict


@main.command("gate")
@click.argument("run_path", metavar="RUN", type=folder_or_url)
@click.option("--policy", required=True, help="A policy's name or YAML file.")
@click.option(
    "--baseline",
    type=result_or_url,
    help="An earlier run of the same model and suite: its folder, or one in a leaderboard.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the output [RUN/gate].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def gate_command(
    run_path: Path, policy: str, baseline: str | None, out: Path | None, as_json: bool
) -> None:
    """Check RUN, a run's folder, its comparisons.json or a copy's URL, against a policy.

    Exit code 0: pass; 1: fail; 2: inconclusive; 3 and up: could not be decided. Writes
    verdict.json, junit.xml and summary.md, which is also appended to $GITHUB_STEP_SUMMARY.
    """
    verdict = _decide(run_path, policy, baseline, out)
    if as_json:
        echo(json.dumps(verdict.model_dump(mode="json"), allow_nan=False))
    else:
        print_verdict(verdict)
    sys.exit(verdict.exit_code)


def _decide(run_path: Path, policy: str, baseline: str | None, out: Path | None) -> Verdict:
    from ..gates import changes_since, clear, decide, write_verdict
    from ..leaderboards import read_result
    from ..registry import load_policy
    from ..results import read_finished

    root = run_path if run_path.is_dir() else run_path.parent
    folder = out or output_of(root, "--out") / "gate"
    with locked(root, folder):
        clear(folder)
        wanted, result = load_policy(policy), read_finished(run_path)
        earlier = None if baseline is None else changes_since(result, read_result(baseline))
        verdict = decide(result, wanted, earlier)
        write_verdict(verdict, folder)
    return verdict


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict's rulings and its conclusion, one line each."""
    from ..gates import conclusion, plain

    for ruling in verdict.rulings:
        tier = "" if ruling.tier == "critical" else f" ({ruling.tier})"
        words = f"{ruling.rule}{tier}: {ruling.subject}: {ruling.reason}"
        echo(f"{ruling.state:<11}  {plain(words)}")
    for name in verdict.not_applied:
        echo(f"no baseline  {plain(name)}")
    echo(plain(conclusion(verdict)))
