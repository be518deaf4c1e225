"""Cells: one variant on one task, answered through lm-eval, kept as one row an item."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import UserError
from .folder import RunFolder, new_folder, read_json, write_json
from .tasks import LoadedTask, as_binary, quiet_lm_eval


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that can change a cell's answers; its hash names the cell."""

    model: str
    fingerprint: str
    variant: str
    target: str | None
    profile: str | None
    adapter: str | None
    dtype: str
    device: str
    experts_implementation: str
    engine: str
    engine_settings: tuple[tuple[str, int | bool], ...]
    versions: tuple[tuple[str, str], ...]
    batch_tokens: int
    prompt_format: str
    decoding: str
    task: str
    task_version: str
    metric: str
    split: str
    items: str
    seed: int

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def run_cell(
    folder: RunFolder, identity: Identity, lm: Any, task: LoadedTask, probe: dict[str, Any] | None
) -> None:
    """Have lm-eval run one task on the LM as it stands, and keep every item's answer.

    Args:
        folder: of the run; the cell appears in it whole or not at all.
        identity: of the cell.
        lm: steered, adapted or plain, as `identity` says.
        task: on the test split.
        probe: figures of the null and effect probe, for steered variants.

    Raises:
        UserError: lm-eval did not answer every item, or the metric is not binary.
    """
    started, tokens = time.perf_counter(), lm.forward_tokens
    samples = _samples(task, _evaluate(lm, task))
    with new_folder(folder.cell(identity.id)) as draft:
        samples.to_parquet(draft / "samples.parquet", index=False)
        write_json(
            draft / "cell.json",
            {
                "id": identity.id,
                "identity": asdict(identity),
                "probe": probe,
                "items": len(samples),
                "score": float(samples["score"].mean()),
                "tokens": lm.forward_tokens - tokens,
                "wall_seconds": round(time.perf_counter() - started, 3),
            },
        )


def is_done(folder: RunFolder, identity: Identity) -> bool:
    """True where the cell was answered before."""
    return (folder.cell(identity.id) / "cell.json").is_file()


def read_cell(folder: RunFolder, cell_id: str) -> dict[str, Any]:
    """A cell's `cell.json`."""
    cell: dict[str, Any] = read_json(folder.cell(cell_id) / "cell.json")
    return cell


def read_samples(folder: RunFolder, cell_id: str) -> pd.DataFrame:
    """A cell's rows.

    Raises:
        UserError: the file is missing or damaged.
    """
    path: Path = folder.cell(cell_id) / "samples.parquet"
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; delete its folder and run again") from error


def _evaluate(lm: Any, task: LoadedTask) -> list[dict[str, Any]]:
    from lm_eval.evaluator import evaluate

    # Every item is asked: `task` was loaded with the limit, and lm-eval builds requests afresh.
    with quiet_lm_eval():
        result = evaluate(
            lm,
            {"tasks": {task.card.name: task.task}},
            limit=len(task.items),
            bootstrap_iters=0,
            log_samples=True,
        )
    samples: list[dict[str, Any]] = result["samples"][task.card.name]
    if task.card.filter is not None:
        samples = [sample for sample in samples if sample["filter"] == task.card.filter]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def _samples(task: LoadedTask, samples: list[dict[str, Any]]) -> pd.DataFrame:
    if [sample["doc_id"] for sample in samples] != list(range(len(task.items))):
        raise UserError(
            f"task {task.card.name!r}: lm-eval gave {len(samples)} answers to "
            f"{len(task.items)} items; name one of its filters in the suite; no repeats yet"
        )
    scores = as_binary([sample[task.card.metric] for sample in samples], task.card)
    return pd.DataFrame(
        {
            "item": [item.id for item in task.items],
            "task": task.card.name,
            "domain": task.card.domain,
            "question": [item.question for item in task.items],
            "options": [list(item.options) for item in task.items],
            "gold": [item.gold for item in task.items],
            "answer": [
                _answer(item.options, s) for item, s in zip(task.items, samples, strict=True)
            ],
            "loglikelihoods": [
                _likelihoods(item.options, s) for item, s in zip(task.items, samples, strict=True)
            ],
            "score": scores,
        }
    )


def _answer(options: tuple[str, ...], sample: dict[str, Any]) -> str:
    if not options:
        return str(sample["filtered_resps"][0])
    return options[int(np.argmax(_likelihoods(options, sample)))]


def _likelihoods(options: tuple[str, ...], sample: dict[str, Any]) -> list[float]:
    return [float(answer[0]) for answer in sample["filtered_resps"]] if options else []
