"""Runs of a small plan on a cluster of namespaced nodes, which tests disturb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from dsmoe_eval.registry import find_card
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.results.manifest import TWICE
from dsmoe_eval.runs import run
from dsmoe_eval.runs.workers import WorkerState, read_workers

from ..cluster import Cluster, Node, wait_for

PYTHON = sys.executable
CELL = "[0-9a-f]" * 16
"""The pattern of a cell's name."""
MOST_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan on lab-poly, and what one process makes of it.

    Attributes:
        path: the file of the plan.
        limit: the limit of items.
        alone: the folder of the run of one process.
    """

    path: Path
    limit: int
    alone: RunFolder


def small_plan(folder: Path, variants: list[str], limit: int) -> Plan:
    """Write a plan of two targets, and run it in this process, on one thread as on the nodes."""
    content = yaml.safe_load(find_card("plans", "lab").read_text())
    strengths = {"bias": [1.0, 2.0], "reweight": [4.0, 9.0]}
    content |= {"targets": ["biology", "math"], "variants": ["base", *variants]}
    content |= {"tuning": {"expert_counts": [8], "strengths": strengths}}
    del content["sft"]
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    quiet = Console(quiet=True)
    alone = run(str(path), folder / "alone", limit=limit, device="cpu", console=quiet)
    return Plan(path, limit, alone)


@dataclass
class Trial:
    """A run of a plan on a cluster.

    Attributes:
        cluster: the cluster.
        plan: the plan.
        folder: the run's folder.
        said: the file of what the drivers print.
        driver: the process of the present driver.
    """

    cluster: Cluster
    plan: Plan
    folder: RunFolder
    said: Path
    driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a driver on the head."""
        command = [PYTHON, "-m", "dsmoe_eval", "run", str(self.plan.path), "--executor", "ray"]
        options = ["--out", str(self.folder.root), "--limit", str(self.plan.limit)]
        address = {"RAY_ADDRESS": self.cluster.address}
        head = self.cluster.nodes[0]
        self.driver = head.start(*command, *options, "--device", "cpu", to=self.said, **address)

    def workers(self) -> list[tuple[Node, WorkerState]]:
        """Return the workers that show signs of life, with their nodes."""
        nodes = {node.name: node for node in self.cluster.nodes}
        living = [one for one in read_workers(self.folder) if one.lives and one.node in nodes]
        return [(nodes[worker.node], worker) for worker in living]

    def at_work(self, workers: int = 1) -> list[tuple[Node, WorkerState]]:
        """Wait until so many workers answer a cell; return them, with their nodes."""
        found: dict[str, tuple[Node, WorkerState]] = {}

        def look() -> bool:
            assert self.driver is not None
            assert self.driver.poll() is None, self.said.read_text()[-3000:]
            living = {worker.name: (node, worker) for node, worker in self.workers()}
            for path in self.folder.leases.glob(f"{CELL}.*"):
                if (owner := _text(path)) in living:
                    found[owner] = living[owner]
            return len(found) >= workers

        wait_for(look, f"{workers} workers answer cells", MOST_SECONDS)
        return list(found.values())

    def kill_driver(self) -> None:
        """Kill the driver at once."""
        assert self.driver is not None
        kill_inside(self.driver)

    def end(self) -> str:
        """Wait for the end of the driver, and return what it printed."""
        assert self.driver is not None
        code = self.driver.wait(MOST_SECONDS)
        said = self.said.read_text()
        assert code == 0, said[-3000:]
        return said

    def check(self, in_work: int) -> None:
        """Check that nothing is lost, nothing done twice but what was in work, and the result.

        Args:
            in_work: the most cells that were in work at a fault.
        """
        alone, folder = self.plan.alone, self.folder
        assert folder.comparisons.read_bytes() == alone.comparisons.read_bytes()
        assert _names(folder) == _names(alone)
        answered = Counter(
            record["fields"]["cell"] for record in self.log() if record["message"] == "cell done"
        )
        cells = {path.name for path in (folder.root / "cells").iterdir()}
        assert set(answered) <= cells
        assert len(cells - set(answered)) <= in_work  # killed between the cell and its record
        assert sum(answered.values()) - len(answered) <= in_work
        folder.check()

    def log(self) -> list[dict[str, object]]:
        """Return the records of the log."""
        return [json.loads(line) for line in self.folder.log.read_text().splitlines()]

    def twice(self) -> int:
        """Return the number of cells that were answered twice."""
        cells = [r for r in self.log() if r["message"] == TWICE and "cells/" in str(r["fields"])]
        return len(cells)


def kill_inside(process: subprocess.Popen[bytes]) -> None:
    """Kill the command that `Node.start` started on a node."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), 9)
    process.wait(MOST_SECONDS)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _names(folder: RunFolder) -> set[str]:
    """Return the files of a run that are the same for every way of running it."""
    found = {path.relative_to(folder.root).as_posix() for path in folder.root.rglob("*")}
    return {name for name in found if not name.startswith("report")}
