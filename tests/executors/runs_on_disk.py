"""Folders of runs as workers leave them, without a model."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from dsmoe_eval.files import seal, write_json
from dsmoe_eval.results.folder import RunFolder


def begin(root: Path, model: str = "lab-poly", **plan: object) -> RunFolder:
    """Write the identity of a run."""
    folder = RunFolder(root)
    write_json(folder.identity, {"model": model, "plan": plan})
    return folder


def beat(folder: RunFolder, name: str, ago: float = 0.0, **fields: object) -> Path:
    """Write the file of a worker, with a time some seconds ago."""
    path = folder.worker(name)
    write_json(path, {"name": name, "node": "node-a", "process": 7} | fields)
    os.utime(path, (time.time() - ago,) * 2)
    return path


def add_cells(folder: RunFolder, count: int) -> None:
    """Add as many complete cells."""
    for number in range(count):
        (folder.root / "cells" / f"{number:016x}").mkdir(parents=True, exist_ok=True)


def add_log(folder: RunFolder, writer: str | None, *records: tuple[str, dict[str, object]]) -> None:
    """Add records to the log of the run, or to that of one of several writers."""
    path = RunFolder(folder.root, writer).log
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"time": "2026-11-28T00:37:25.307+00:00", "stage": None, "message": message, "fields": more}
        for message, more in records
    ]
    with path.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def finish(folder: RunFolder, cells: int) -> None:
    """Write comparisons, and a manifest of as many cells."""
    write_json(folder.comparisons, {})
    names = [f"cells/{n:016x}/{file}" for n in range(cells) for file in ("cell.json", "x.parquet")]
    write_json(folder.manifest, seal(dict.fromkeys([*names, "run.json"], "00")))
