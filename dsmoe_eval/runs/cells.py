"""Cells: one variant on one task, answered and judged, stored as one row per item."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from ..cards import OutcomeName
from ..engines.base import Figures
from ..engines.lm import EngineLM
from ..files import write_json
from ..results.acted import Evidence
from ..results.cells import GENERATED, Identity, answer_rates
from ..results.folder import RunFolder
from ..tasks.items import Item
from ..tasks.language_model import Advance, unwatched
from ..tasks.loading import LoadedTask
from ..tasks.outcomes import Floats, TextScore, bits_per_byte, gold_logprobs, score_texts
from ..tasks.scoring import Answers, ScoredAnswer, answer_tasks, item_scores, judge
from ..variants import BASE
from .arms import PreparedArm
from .job import Job
from .noise import batch_noise


def run_cell(
    folder: RunFolder,
    identity: Identity,
    lm: EngineLM,
    task: LoadedTask,
    probe: Figures | None,
    advance: Advance = unwatched,
    evidence: Evidence | None = None,
) -> None:
    """Answer one task with the LM in its present state, and store the answers to every item.

    Generated answers are stored as they arrive, so that a killed run does not generate them again.

    Args:
        folder: the run's folder; the cell appears in it complete or not at all.
        identity: the identity of the cell.
        lm: the model, steered, adapted or plain, as `identity` says.
        task: the task on the test split.
        probe: the figures of the null and the effect probe, for steered variants.
        advance: called with the number of requests just answered.
        evidence: the figure that shows what was done to the model; None of base.

    Raises:
        UserError: an item was not answered as often as it should be, the metric is not binary, or
            an outcome cannot be computed.
    """
    asked = ask(lm, task, folder.answers(identity.id), advance)
    store_cell(folder, identity, lm, task, probe, asked, evidence)


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """What an LM answered to a task.

    Attributes:
        answers: the answers to the task's requests, or the likelihoods of its texts.
        tokens: number of tokens that were computed for them.
        seconds: wall time; of tasks that were answered together each one's share.
    """

    answers: Answers | Sequence[TextScore]
    tokens: int
    seconds: float


def ask(
    lm: EngineLM, task: LoadedTask, remembered: Path | None, advance: Advance = unwatched
) -> TaskAnswers:
    """Return the answers of the LM to a task.

    Likelihoods of texts are not remembered: nothing of them is kept if the run is killed.
    """
    started, tokens = time.perf_counter(), lm.forward_tokens
    answers: Answers | Sequence[TextScore]
    if task.card.is_text:
        answers = score_texts(lm, task, advance)
    else:
        (answers,) = answer_tasks(lm, [task], remembered, advance)
    return TaskAnswers(answers, lm.forward_tokens - tokens, time.perf_counter() - started)


def store_cell(
    folder: RunFolder,
    identity: Identity,
    lm: EngineLM,
    task: LoadedTask,
    probe: Figures | None,
    asked: TaskAnswers,
    evidence: Evidence | None = None,
) -> None:
    """Judge the answers to a task, and store them to every item; see `run_cell`."""
    samples, outcome = (
        _text_rows(lm, task, cast("Sequence[TextScore]", asked.answers))
        if task.card.is_text
        else _judged(task, cast(Answers, asked.answers))
    )
    with folder.new_folder(folder.cell(identity.id)) as draft:
        samples.to_parquet(draft / "samples.parquet", index=False)
        write_json(
            draft / "cell.json",
            {
                "id": identity.id,
                "identity": asdict(identity),
                "probe": None if probe is None else probe.to_dict(),
                "acted": evidence,
                "items": len(samples),
                **outcome,
                "prompt_tokens": _prompt_tokens(lm, task),
                "sharing": [asdict(check) for check in lm.sharing],
                "noise": batch_noise(lm, task, samples) if identity.variant == BASE else None,
                "tokens": asked.tokens,
                "wall_seconds": round(asked.seconds, 3),
            },
        )
    folder.forget_answers(identity.id)


def item_outcomes(lm: EngineLM, task: LoadedTask, asked: TaskAnswers) -> dict[OutcomeName, Floats]:
    """Judge the answers to a task, and return each outcome that it has, more is better: [items].

    Those of texts are as `results.outcome_comparisons` compares them, by their mean bytes.

    Raises:
        UserError: as `run_cell`.
    """
    if task.card.is_text:
        rows, _ = _text_rows(lm, task, cast("Sequence[TextScore]", asked.answers))
        bits = rows["bytes"].to_numpy().mean() * math.log(2)
        return {"bits_per_byte": rows["loglikelihood"].to_numpy(dtype=np.float64) / bits}
    rows, _ = _judged(task, cast(Answers, asked.answers))
    names: tuple[OutcomeName, ...] = ("score", "gold_logprob")
    found = {name: rows[name].to_numpy(dtype=np.float64) for name in names}
    return {name: values for name, values in found.items() if not np.isnan(values).any()}


Answered = tuple[pd.DataFrame, dict[str, object]]
"""A cell's rows, and the figures of `cell.json` that follow from them."""


def _judged(task: LoadedTask, answers: Answers) -> Answered:
    samples = _samples(task, judge(task, answers))
    rates = answer_rates(samples)
    return samples, {
        "score": float(samples["score"].mean()),
        "answers": rates and {"samples": task.card.samples} | rates,
    }


def _text_rows(lm: EngineLM, task: LoadedTask, scores: Sequence[TextScore]) -> Answered:
    columns = {
        name: [getattr(score, name) for score in scores]
        for name in ("loglikelihood", "bytes", "words")
    }
    samples = pd.DataFrame(_about(task) | columns)
    level = bits_per_byte(samples["loglikelihood"].to_numpy(), samples["bytes"].to_numpy())
    return samples, {
        "answers": None, "bits_per_byte": level, "window": lm.max_length,
    }  # fmt: skip


def _about(task: LoadedTask) -> dict[str, object]:
    return {
        "item": [item.id for item in task.items],
        "task": task.card.name,
        "domain": task.card.domain,
        "cluster": [item.cluster for item in task.items],
        "question": [item.question for item in task.items],
    }


def _prompt_tokens(lm: EngineLM, task: LoadedTask) -> float:
    """Return the mean number of tokens of an item's prompts, each different prompt counted once."""
    prompts = {(request.doc_id, str(request.args[0])) for request in task.requests}
    return sum(len(lm.tok_encode(text)) for _, text in prompts) / len(task.items)


def cell_identity(
    job: Job, arm: PreparedArm | None, task: str, line: str | None = None
) -> Identity:
    """Return the identity of a cell: an arm, or base if `arm` is None, on a task.

    Its prompts begin with `line`; if that is None, with the arm's line, if it has one.
    """
    test, engine = job.test[task], job.engine
    if line is None and arm is not None:
        line = arm.planned.preamble
    decoding = None if test.generation is None else job.lm.decoding(test.generation)
    return Identity(
        model=engine.identity.name,
        fingerprint=engine.identity.fingerprint,
        variant=BASE if arm is None else arm.planned.variant.name,
        target=None if arm is None else arm.planned.target,
        profile=None if arm is None or arm.profile is None else arm.profile.id,
        adapter=None if arm is None else arm.adapter,
        dtype=engine.dtype,
        device=engine.device,
        experts_implementation=engine.experts_implementation,
        engine=engine.name,
        engine_settings=tuple(sorted(engine.settings.items())),
        versions=tuple(sorted(job.identity["versions"].items())),
        batch_tokens=job.plan.batch_tokens,
        prompt_format=job.lm.format.name + _after(line),
        decoding="greedy" if decoding is None else decoding.describe(test.card.samples),
        ends=() if decoding is None else (*decoding.until, *engine.generation.ends),
        task=task,
        task_version=test.version,
        few_shot=test.few_shot,
        answer_tokens=test.answer_tokens,
        filter=test.card.filter,
        metric=test.card.metric,
        split=str(job.suite.stage_split(test.card, "test")),
        items=test.items_hash,
        seed=job.plan.seed,
    )


def _after(line: str | None) -> str:
    return "" if line is None else f", after the line {line!r}"


def _samples(task: LoadedTask, judged: Sequence[Sequence[ScoredAnswer]]) -> pd.DataFrame:
    pairs = list(zip(task.items, (answers[0] for answers in judged), strict=True))
    return pd.DataFrame(
        {
            **_about(task),
            "options": [list(item.options) for item in task.items],
            "gold": [item.gold for item in task.items],
            "answer": [_answer(item, first) for item, first in pairs],
            "loglikelihoods": [_likelihoods(item, first) for item, first in pairs],
            "gold_logprob": np.array(gold_logprobs(task, judged), dtype=np.float64),
            "score": item_scores(judged),
            **{
                name: [[getattr(one, field) for one in answers if one.text is not None]
                       for answers in judged]
                for name, field in GENERATED.items()
            },
        }
    )  # fmt: skip


def _answer(item: Item, first: ScoredAnswer) -> str:
    if not item.options:
        return str(first.results[0])
    return item.options[int(np.argmax(_likelihoods(item, first)))]


def _likelihoods(item: Item, first: ScoredAnswer) -> list[float]:
    return [float(result[0]) for result in first.results] if item.options else []
