"""What rendering a leaderboard costs, with the questions and answers of every run on its page.

    python benchmarks/speed/leaderboard.py [--models 10] [--items 12000] [--domains 14] [--json]

Runs are made by chance (`synthetic_run.py`): base, sham, contrast, random, wrong-domain, sft-lora;
every domain is a target, its task has items / domains items, as MMLU-Pro's 12,032 in 14 do, and
the last domain's answers are generated. Each arm answers the tasks of all domains; the arms of a
variant share the cells of all tasks but their own target's. The models differ in their names only,
since comparing a run's 70 arms takes longer than all that is measured here. Making and submitting
the runs is not counted, and peak memory is that of a process of its own that only builds.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from synthetic_run import Spec, make_run

from dsmoe_eval.leaderboards import Submission, add_run, build, check_leaderboards
from dsmoe_eval.results import RunFolder

MIB = 2**20
BARS = {"build_seconds": 60.0, "peak_gib": 2.0, "page_mib": 5.0}
SUBMISSION = Submission(date=datetime.date(2026, 1, 1), by="chance", hardware="this machine")


def make_runs(folder: Path, models: int, items: int, domains: int) -> list[Path]:
    """A run a model."""
    names = tuple(f"domain-{number:02d}" for number in range(domains))
    spec = Spec(
        domains=names, targets=names, generated=names[-1], items=items // domains, shared=True
    )
    first = make_run(folder / "run-0", spec)
    return [first, *(_renamed(first, folder / f"run-{n}", n) for n in range(1, models))]


def _renamed(run: Path, to: Path, number: int) -> Path:
    """The same run of a model of another name, its cells linked."""
    shutil.copytree(run, to, copy_function=os.link)
    folder = RunFolder(to)
    for name in ("run.json", "comparisons.json"):
        content = json.loads((run / name).read_text())
        own = content["run"] if name == "comparisons.json" else content
        own |= {"model": f"chance/model-{number}", "fingerprint": f"{number:02x}" * 32}
        folder.write_json(to / name, content)
    return to


def file_runs(runs: list[Path], root: Path) -> float:
    """Seconds to file all runs."""
    start = time.perf_counter()
    for run in runs:
        add_run(run, root, SUBMISSION)
    return time.perf_counter() - start


def build_and_check(root: Path, runs: list[Path]) -> dict[str, float]:
    """Seconds to render and to check, this process's peak memory, and what was written."""
    start = time.perf_counter()
    built = build(root, runs)
    found: dict[str, float] = {"build_seconds": time.perf_counter() - start}
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    faults = check_leaderboards(root)
    found["check_seconds"] = time.perf_counter() - start
    sizes = [path.stat().st_size for path in (root / "items").iterdir()]
    return found | {
        "findings": len(faults),
        "page_mib": built.page.stat().st_size / MIB,
        "entries_mib": sum(path.stat().st_size for path in root.glob("*/*/*/*.json")) / MIB,
        "item_files": len(sizes),
        "items_mib": sum(sizes) / MIB,
        "largest_items_mib": max(sizes) / MIB,
    }


def measure(models: int, items: int, domains: int) -> dict[str, Any]:
    """All of it, in a folder that is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        runs = make_runs(Path(folder), models, items, domains)
        made = time.perf_counter() - start
        added = file_runs(runs, Path(folder) / "leaderboards")
        command = [sys.executable, __file__, "--only-build", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        sizes = {"models": models, "items": items, "domains": domains}
        return sizes | {"make_seconds": made, "add_seconds": added} | json.loads(done.stdout)


@click.command()
@click.option("--models", default=10, show_default=True)
@click.option("--items", default=12_000, show_default=True, help="Of the suite, in all domains.")
@click.option("--domains", default=14, show_default=True)
@click.option("--only-build", type=click.Path(path_type=Path), hidden=True)
@click.option("--json", "as_json", is_flag=True)
def main(models: int, items: int, domains: int, only_build: Path | None, as_json: bool) -> None:
    """Measure and print."""
    if only_build is not None:
        runs = sorted(only_build.glob("run-*"))
        click.echo(json.dumps(build_and_check(only_build / "leaderboards", runs)))
        return
    found = measure(models, items, domains)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        bar = f" (bar: {BARS[name]:g})" if name in BARS else ""
        click.echo(f"{name.replace('_', ' ')}: {value:.6g}{bar}")


if __name__ == "__main__":
    main()
