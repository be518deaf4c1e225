"""A small real run, and runs of any size and content whose cells are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dsmoe_eval.registry import find_card
from dsmoe_eval.results import RunFolder
from dsmoe_eval.results.arms import Arm
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.schema import Base, RunResult
from dsmoe_eval.runs import run

from ..recorded import record


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The lab's plan, smaller; six items a task."""
    plan = yaml.safe_load(find_card("plans", "lab").read_text())
    plan |= {"targets": ["math", "physics"], "variants": ["base", "sham", "contrast", "random"]}
    plan["tuning"] = {"expert_counts": [2, 4], "strengths": {"bias": [1.0, 3.0]}}
    path = tmp_path_factory.mktemp("plan") / "report.yaml"
    path.write_text(yaml.safe_dump(plan))
    out = tmp_path_factory.mktemp("runs") / "r"
    return run(str(path), out, limit=6, device="cpu", console=Console(quiet=True))


@pytest.fixture(scope="session")
def result(folder):
    """The result of the small run."""
    return read_finished(folder.root).result


def _chosen(rng: Any, questions: list[str]) -> dict[str, Any]:
    """Answers to questions of four options, the second of which is right."""
    options = [[f"{letter} of {place}" for letter in "ABCD"] for place in range(len(questions))]
    picked = rng.integers(0, 4, len(questions))
    empty: list[list[Any]] = [[] for _ in questions]
    return {
        "options": options,
        "gold": [own[1] for own in options],
        "answer": [own[pick] for own, pick in zip(options, picked, strict=True)],
        "score": (picked == 1).astype(float),
        **dict.fromkeys(("texts", "scores", "tokens", "truncated", "invalid"), empty),
    }


def _generated(rng: Any, questions: list[str], texts: list[str]) -> dict[str, Any]:
    """Two generated answers an item, drawn from these texts; the first text is right."""
    n = len(questions)
    picked = rng.integers(0, len(texts), (n, 2))
    scores = (picked == 0).astype(float)
    return {
        "options": [[] for _ in questions],
        "gold": [texts[0]] * n,
        "answer": [texts[first] for first, _ in picked],
        "score": scores.mean(axis=1),
        "texts": [[texts[one] for one in own] for own in picked],
        "scores": scores.tolist(),
        "tokens": [[len(texts[one].split()) for one in own] for own in picked],
        "truncated": [[False, True]] * n,
        "invalid": [[False, False]] * n,
    }


def write_cell(folder: RunFolder, cell: str, rows: dict[str, Any]) -> None:
    folder.cell(cell).mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder.cell(cell) / "samples.parquet", index=False)


@pytest.fixture(scope="session")
def make_run():
    """`make_run(root, tasks, arms)`: a run's folder and as much of its result as items need.

    The result holds the tasks and cells of base and of the arms.

    `tasks` has for each task its questions, and the texts that are generated, or none where options
    are chosen; the arms are of variants v1, v2 ... on `math`.
    """

    def make(
        root: Path, tasks: dict[str, tuple[list[str], list[str]]], arms: int
    ) -> tuple[RunFolder, RunResult]:
        folder, rng = RunFolder(root), np.random.default_rng(0)
        cells = {
            (arm, task): f"cell-{arm}-{place}"
            for arm in range(arms + 1)
            for place, task in enumerate(tasks)
        }
        for (arm, task), cell in cells.items():
            questions, texts = tasks[task]
            rows = _generated(rng, questions, texts) if texts else _chosen(rng, questions)
            items = [f"item{place:05d}" for place in range(len(questions))]
            rows = {"item": items, "question": questions} | rows
            # Cells need not agree in the order of their items.
            order = rng.permutation(len(questions)) if arm else np.arange(len(questions))
            write_cell(folder, cell, {name: [rows[name][k] for k in order] for name in rows})
        record(root)
        return folder, RunResult.model_construct(
            base=tuple(
                Base.model_construct(task=task, cell=cells[0, task], domain="math", role="target")
                for task in tasks
            ),
            arms=tuple(
                Arm.model_construct(
                    variant=f"v{arm}",
                    target="math",
                    cells={task: cells[arm, task] for task in tasks},
                )
                for arm in range(1, arms + 1)
            ),
        )

    return make
