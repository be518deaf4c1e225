"""A matrix on two nodes against one, and what a cell costs beside its answers.

    python -m benchmarks.speed.ray_cluster matrix [--repeats 2] [--limit 300]
    python -m benchmarks.speed.ray_cluster cells [--cells 1000]

The nodes are namespaces of this machine (tests/cluster.py; Linux, root), each pinned to one core.
The head with the driver shares the first node's core.
`matrix` runs four random models of the shape of lab-poly, in turn on one node and on two, and
prints the time of the whole command and the ratio. `cells` has workers store trivial cells through
leases, records and the manifest: one in this process, one and two as Ray actors.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
import yaml
from models import LAB_POLY
from transformers import AutoConfig, AutoTokenizer

from dsmoe_eval.files import write_json
from dsmoe_eval.log import log_file, note
from dsmoe_eval.models import random_weights
from dsmoe_eval.registry import find_card
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs.leases import Piece, Shared
from dsmoe_eval.runs.workers import Worker
from tests.cluster import Cluster, cluster

MODELS = 4


@click.group()
def main() -> None:
    """Measure the executor `ray` on this machine."""


@main.command()
@click.option("--repeats", default=2)
@click.option("--limit", default=300)
def matrix(repeats: int, limit: int) -> None:
    """Run four models of equal size on one node and on two, in turn."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).resolve()
        models, plan = _models(folder), _plan(folder)
        times: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(repeats):
            for nodes in (1, 2) if repeat % 2 == 0 else (2, 1):
                out = folder / f"{nodes}-{repeat}"
                with cluster(nodes) as made:
                    times[nodes].append(_timed(made, plan, models, out, limit))
                click.echo(f"{nodes} nodes: {times[nodes][-1]:.1f} s")
        _check_equal(folder, models)
        one, two = (statistics.median(times[nodes]) for nodes in (1, 2))
        click.echo(f"{MODELS} models: {one:.1f} s on one node, {two:.1f} s on two: {two / one:.2f}")


def _models(folder: Path) -> list[str]:
    config, paths = AutoConfig.from_pretrained(LAB_POLY), []
    for seed in range(MODELS):
        path = folder / f"random{seed}"
        random_weights(config, torch.float32, "cpu", seed).save_pretrained(path)
        AutoTokenizer.from_pretrained(LAB_POLY).save_pretrained(path)
        paths.append(str(path))
    return paths


def _plan(folder: Path) -> Path:
    content = yaml.safe_load(find_card("plans", "lab").read_text())
    del content["sft"]
    content["targets"] = ["biology", "math"]
    content["variants"] = ["base", "dsmoe", "dsmoe-bias", "contrast", "random"]
    strengths = {"bias": [1.0, 2.0], "reweight": [4.0, 9.0]}
    content["tuning"] = {"expert_counts": [8], "strengths": strengths}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _timed(made: Cluster, plan: Path, models: list[str], out: Path, limit: int) -> float:
    command = [sys.executable, "-m", "dsmoe_eval", "run", str(plan), "--executor", "ray"]
    options = ["--out", str(out), "--limit", str(limit), "--device", "cpu"]
    named = [word for model in models for word in ("--model", model)]
    started = time.perf_counter()
    head = made.nodes[0]
    done = head.run(*command, *options, *named, seconds=3600, RAY_ADDRESS=made.address)
    if done.returncode:
        raise click.ClickException(done.stdout[-2000:] + done.stderr[-2000:])
    return time.perf_counter() - started


def _check_equal(folder: Path, models: list[str]) -> None:
    """Stop unless all runs of a model have the same result."""
    for model in models:
        found = {
            path.read_bytes() for path in folder.glob(f"*-*/*{Path(model).name}/comparisons.json")
        }
        if len(found) != 1:
            raise click.ClickException(f"{model}: {len(found)} different results")


@main.command()
@click.option("--cells", default=1000)
def cells(cells: int) -> None:
    """Store trivial cells by one worker here, and by one and two workers on a cluster."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).resolve()
        _say("one worker in this process", cells, store(folder / "here", "here", cells))
        with cluster(2) as made:
            for workers in (1, 2):
                command = [sys.executable, "-m", __spec__.name, "through-ray"]
                given = [str(folder / f"ray{workers}"), str(workers), str(cells)]
                done = made.nodes[0].run(*command, *given, seconds=900, RAY_ADDRESS=made.address)
                if done.returncode:
                    raise click.ClickException(done.stdout + done.stderr)
                _say(f"{workers} workers on {workers} nodes", cells, json.loads(done.stdout))


def _say(who: str, cells: int, seconds: float) -> None:
    click.echo(f"{who}: {cells} cells in {seconds:.1f} s, {1000 * seconds / cells:.1f} ms per cell")


@main.command(hidden=True)
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("workers", type=int)
@click.argument("cells", type=int)
def through_ray(root: Path, workers: int, cells: int) -> None:
    """Store cells by actors; print the seconds from the first order to the last end."""
    import ray

    ray.init(log_to_driver=False)
    actors = [ray.remote(num_cpus=1)(Storer).remote() for _ in range(workers)]
    named = [(actor, f"w{number}") for number, actor in enumerate(actors)]
    ray.get([actor.store.remote(root / "warm", name, 1) for actor, name in named])  # imports
    started = time.perf_counter()
    ray.get([actor.store.remote(root / "cells", name, cells) for actor, name in named])
    click.echo(json.dumps(time.perf_counter() - started))


class Storer:
    """An actor that stores cells."""

    def store(self, root: Path, name: str, cells: int) -> float:
        """Store cells; see the function."""
        return store(root, name, cells)


def store(root: Path, name: str, cells: int) -> float:
    """Store cells beside other workers, as a run does; return the seconds."""
    started = time.perf_counter()
    worker, folder = Worker(root, name), RunFolder(root, name)
    folder.log.parent.mkdir(parents=True, exist_ok=True)
    with worker.working(), log_file(folder.log):
        Shared(root, worker).share([_piece(folder, f"{number:016x}") for number in range(cells)])
    return time.perf_counter() - started


def _piece(folder: RunFolder, cell: str) -> Piece:
    path = folder.cell(cell)

    def do() -> None:
        with folder.new_folder(path) as draft:
            write_json(draft / "cell.json", {"id": cell})
            write_json(draft / "samples.json", [cell])
        note("cell done", cell=cell)

    return Piece(cell, done=lambda: folder.has(path / "cell.json"), do=do, skip=lambda: None)


if __name__ == "__main__":
    main()
