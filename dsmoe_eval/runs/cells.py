"""Cells: one variant on one task, answered through lm-eval, kept as one row an item."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ..errors import UserError
from .folder import RunFolder, new_folder, read_json, write_json
from .items import Item
from .scoring import Judged, item_scores, judge
from .tasks import LoadedTask, quiet_lm_eval

GENERATED = {
    "texts": "text",
    "scores": "score",
    "tokens": "tokens",
    "truncated": "truncated",
    "invalid": "invalid",
}
"""Columns that hold a value for each generated answer of an item, and what of `Judged`."""


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
    few_shot: int
    answer_tokens: int | None
    filter: str | None
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

    Answers that are generated are kept as they come, so that a killed run does not ask for them
    again.

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
    with lm.remembering(folder.answers(identity.id)):
        judged = _evaluate(lm, task)
    samples = _samples(task, judged)
    rates = answer_rates(samples)
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
                "answers": rates and {"samples": task.card.samples} | rates,
                "tokens": lm.forward_tokens - tokens,
                "wall_seconds": round(time.perf_counter() - started, 3),
            },
        )
    folder.answers(identity.id).unlink(missing_ok=True)


def answer_rates(rows: pd.DataFrame, suffix: str = "") -> dict[str, float] | None:
    """Of generated answers: mean tokens, shares truncated and invalid.

    Args:
        rows: of cells.
        suffix: of the columns, where rows hold two variants'.

    Returns:
        None where no answer was generated.
    """
    generated = rows[rows[f"tokens{suffix}"].str.len() > 0]
    if generated.empty:
        return None
    names = {"mean_tokens": "tokens", "truncated": "truncated", "invalid": "invalid"}
    return {
        name: float(np.concatenate(generated[f"{column}{suffix}"].to_list()).mean())
        for name, column in names.items()
    }


def is_done(folder: RunFolder, identity: Identity) -> bool:
    """True where the cell was answered before."""
    return (folder.cell(identity.id) / "cell.json").is_file()


def read_cell(folder: RunFolder, cell_id: str) -> dict[str, Any]:
    """A cell's `cell.json`."""
    cell: dict[str, Any] = read_json(folder.cell(cell_id) / "cell.json")
    return cell


def read_samples(
    folder: RunFolder, cell_id: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A cell's rows; all columns or those named.

    Raises:
        UserError: the file is missing or damaged.
    """
    path: Path = folder.cell(cell_id) / "samples.parquet"
    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns))
        table.validate(full=True)  # a damaged file can hold text that is no UTF-8
        frame: pd.DataFrame = table.to_pandas()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; delete its folder and run again") from error
    return frame


def _evaluate(lm: Any, task: LoadedTask) -> list[tuple[Judged, ...]]:
    """Run by lm-eval; our scores of the first samples are held against its own."""
    from lm_eval.evaluator import evaluate

    # Every item is asked: `task` was loaded with the limit, and lm-eval builds requests afresh.
    with quiet_lm_eval():
        result = evaluate(
            lm,
            {"tasks": {task.card.name: task.task}},
            limit=len(task.items),
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=lm.format.chat,
        )
    samples: list[dict[str, Any]] = result["samples"][task.card.name]
    if task.card.filter is not None:
        samples = [sample for sample in samples if sample["filter"] == task.card.filter]
    samples.sort(key=lambda sample: sample["doc_id"])
    if [sample["doc_id"] for sample in samples] != list(range(len(task.items))):
        raise UserError(
            f"task {task.card.name!r}: lm-eval gave {len(samples)} answers to "
            f"{len(task.items)} items; name one of its filters in the suite"
        )
    judged = judge(task)
    if [s[task.card.metric] for s in samples] != [answers[0].score for answers in judged]:
        raise UserError(f"task {task.card.name!r}: lm-eval's scores are not those of its metric")
    return judged


def _samples(task: LoadedTask, judged: Sequence[Sequence[Judged]]) -> pd.DataFrame:
    pairs = list(zip(task.items, (answers[0] for answers in judged), strict=True))
    return pd.DataFrame(
        {
            "item": [item.id for item in task.items],
            "task": task.card.name,
            "domain": task.card.domain,
            "cluster": [item.cluster for item in task.items],
            "question": [item.question for item in task.items],
            "options": [list(item.options) for item in task.items],
            "gold": [item.gold for item in task.items],
            "answer": [_answer(item, first) for item, first in pairs],
            "loglikelihoods": [_likelihoods(item, first) for item, first in pairs],
            "score": item_scores(judged),
            **{
                name: [[getattr(one, field) for one in answers if one.text is not None]
                       for answers in judged]
                for name, field in GENERATED.items()
            },
        }
    )  # fmt: skip


def _answer(item: Item, first: Judged) -> str:
    if not item.options:
        return str(first.results[0])
    return item.options[int(np.argmax(_likelihoods(item, first)))]


def _likelihoods(item: Item, first: Judged) -> list[float]:
    return [float(result[0]) for result in first.results] if item.options else []
