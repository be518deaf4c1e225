"""Cells: one variant on one task, answered through lm-eval, kept as one row an item."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from ..errors import UserError
from ..files import new_folder, write_json
from ..progress import counted_as
from ..results.cells import GENERATED, Identity, answer_rates
from ..results.folder import RunFolder
from ..tasks.items import Item
from ..tasks.loading import LoadedTask, quiet_lm_eval
from ..tasks.scoring import Judged, item_scores, judge


def run_cell(
    folder: RunFolder,
    identity: Identity,
    lm: Any,
    task: LoadedTask,
    probe: dict[str, Any] | None,
    advance: Callable[[int], None] = lambda _count: None,
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
        advance: called with the number of answers just given.

    Raises:
        UserError: lm-eval did not answer every item, or the metric is not binary.
    """
    started, tokens = time.perf_counter(), lm.forward_tokens
    with (
        counted_as(advance, task.answers_asked, task.requests_asked) as count,
        lm.remembering(folder.answers(identity.id), count),
    ):
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
