"""Commands about leaderboards: add, build, check, diff, verify."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .copying import folder_or_url, result_or_url
from .main import main
from .terminal import EXIT_FAILED, echo

if TYPE_CHECKING:
    from ..leaderboards import Change, Difference, Verified

_root_option = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("leaderboards"), show_default=True,
    help="Folder of the leaderboards.",
)  # fmt: skip


@main.group("leaderboard")
def leaderboard() -> None:
    """Store the results of many runs in git: add, render, check, verify and compare them."""


@leaderboard.command("add")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=folder_or_url)
@_root_option
@click.option("--by", help="Name of the submitter [git's user.name].")
@click.option("--hardware", help="The machine that ran it [this machine].")
@click.option(
    "--reason", help="Reason why figures differ from an earlier submission of the same run."
)
def add_command(
    runs: tuple[Path, ...], root: Path, by: str | None, hardware: str | None, reason: str | None
) -> None:
    """Add finished runs: one JSON file per variant, which is appended to and never changed."""
    from ..leaderboards import Submission, add_run, today

    try:
        submission = Submission(
            date=today(), by=by or _user(), hardware=hardware or _machine(), reason=reason
        )
    except ValueError as error:
        raise click.UsageError("--by, --hardware and --reason take 1 to 200 characters") from error
    for run in runs:
        added = add_run(run, root, submission)
        for path in added.written:
            echo(f"submitted {path}")
        if added.same:
            echo(f"{run}: {len(added.same)} results were there already, with the same figures")
    echo(f"then: dsmoe-eval leaderboard build --root {shlex.quote(str(root))}")


def _user() -> str:
    try:
        command = ["git", "config", "user.name"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return getpass.getuser()
    return done.stdout.strip() or getpass.getuser()


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


@leaderboard.command("build")
@_root_option
@click.option(
    "--runs", multiple=True, type=folder_or_url,
    help="A run's folder, whose questions and answers the page can then show; may be repeated.",
)  # fmt: skip
def build_command(root: Path, runs: tuple[Path, ...]) -> None:
    """Render README.md, its pictures and index.html."""
    from ..leaderboards import build

    built = build(root, runs)
    echo(f"page: {built.page}")
    if built.without:
        echo(f"without their questions: {len(built.without)} run(s); give --runs FOLDER")


@leaderboard.command("check")
@_root_option
@click.option(
    "--since", metavar="REV", help="Git revision whose results must all still be there, unchanged."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def check_command(root: Path, since: str | None, as_json: bool) -> None:
    """Check every file for errors, alone and against the others; exit code 1 if any has one."""
    from ..leaderboards import check_leaderboards

    found = check_leaderboards(root, since)
    if as_json:
        echo(json.dumps([asdict(one) for one in found]))
    else:
        for one in found:
            echo(str(one))
        echo(f"{root}: {len(found)} finding(s)" if found else f"{root}: nothing wrong")
    if found:
        sys.exit(EXIT_FAILED)


@leaderboard.command("verify")
@click.argument(
    "entries", metavar="ENTRY...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--runs", metavar="DIR", multiple=True, required=True, type=folder_or_url,
    help="A run's folder, or a folder of such folders; may be repeated.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def verify_command(entries: tuple[Path, ...], runs: tuple[Path, ...], as_json: bool) -> None:
    """Compute every figure of an entry again from the answers in its run.

    ENTRY is a file of a leaderboard, or a folder of such files. The run is known by the root hash
    of its files, or by its id; its files are checked against its manifest first. Exit code 1 if
    any figure differs.
    """
    from ..leaderboards import verify

    found = verify(entries, runs)
    if as_json:
        echo(json.dumps([asdict(one) for one in found], allow_nan=False))
    else:
        for one in found:
            _print_verified(one)
        echo(_verified_words(found))
    if any(one.differences for one in found):
        sys.exit(EXIT_FAILED)


def _print_verified(one: Verified) -> None:
    if one.run is None:
        echo(f"{one.entry}: run {one.run_id}: NOT CHECKED, no folder that was given holds it")
        return
    echo(
        f"{one.entry}: run {one.run_id}: recomputed {one.figures:,} figures of {one.arms} arms "
        f"from {one.items:,} answered items in {one.run}; compared {one.facts:,} other values "
        f"with its files; {len(one.differences)} differ"
    )
    for difference in one.differences:
        echo(f"  {difference}")


def _verified_words(found: Sequence[Verified]) -> str:
    checked = [one for one in found if one.run is not None]
    wrong = sum(bool(one.differences) for one in checked)
    words = f"{wrong} of them differ" if wrong else "nothing differs"
    return f"{len(checked)} of {len(found)} results checked: {words}"


@leaderboard.command("diff")
@click.argument("a", type=result_or_url)
@click.argument("b", type=result_or_url)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def diff_command(a: str, b: str, as_json: bool) -> None:
    """Report changes from A to B beyond noise.

    A and B are each a run's folder, its comparisons.json, or a revision's folder in a leaderboard
    (of several runs in it FOLDER:RUN_ID, else the last): two revisions of a model, of a profile or
    of the harness, on one suite.
    """
    from ..leaderboards import differences, read_result

    found = differences(read_result(a), read_result(b))
    if as_json:
        echo(json.dumps(asdict(found), allow_nan=False))
        return
    _print(found)


def _print(found: Difference) -> None:
    moved = [row for row in found.changes if row.moved]
    still = len(found.changes) - len(moved)
    echo(f"A  {found.before}\nB  {found.after}")
    for row in moved:
        echo(f"moved     {_words(row)}")
    for name in found.only_before:
        echo(f"only in A {name}")
    for name in found.only_after:
        echo(f"only in B {name}")
    for words in found.missing:
        echo(f"not known {words}")
    echo(
        f"{len(moved)} of {len(found.changes)} figures moved beyond noise (Holm over all, 0.05); "
        f"{still} did not"
    )


def _words(row: Change) -> str:
    what = row.metric.replace("_", " ")
    return (
        f"{row.variant} on {row.target}, {what}: {100 * row.then:+.1f} to {100 * row.now:+.1f} pp, "
        f"by {100 * row.change:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}], "
        f"p = {row.p_adjusted:.3g} ({row.how})"
    )
