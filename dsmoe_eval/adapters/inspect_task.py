"""Generative tasks of suites as Inspect tasks, with lm-eval's prompts, extraction and metric."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import UserError
from ..tasks.decoding import read_decoding
from ..tasks.language_model import GenerationSettings, TaskRequest
from ..tasks.loading import LoadedTask
from ..tasks.scoring import judge_response


def inspect_task(task: LoadedTask) -> Any:
    """Build an Inspect task with lm-eval's prompts and scores.

    The task is for `inspect_ai.eval` and `eval_set`.

    Samples have the item's id, lm-eval's prompt, the gold answer, and the domain as metadata.
    Limits and stop strings are the task's. The score of the completion is the task's metric after
    the task's filters, 0 or 1, so that there is only one extraction rule.

    Args:
        task: a task of `output_type: generate_until` with one request per item.

    Raises:
        UserError: Inspect is not installed, or the task is of another kind.
    """
    try:
        from inspect_ai import Task
        from inspect_ai.dataset import MemoryDataset, Sample
    except ImportError as error:
        raise UserError("Inspect is not installed; pip install 'dsmoe-eval[inspect]'") from error
    requests = _requests(task)
    samples = [
        Sample(
            id=item.id,
            input=request.args[0],
            target=item.gold,
            metadata={"domain": task.card.domain, "task": task.card.name},
        )
        for item, request in zip(task.items, requests, strict=True)
    ]
    by_item = {item.id: request for item, request in zip(task.items, requests, strict=True)}
    return Task(
        name=task.card.name,
        dataset=MemoryDataset(samples, name=f"{task.card.name}-{task.items_hash}"),
        scorer=_scorer(task, by_item),
        epochs=task.card.samples,
        config=_config(task, requests[0].args[1]),
        version=task.version,
        metadata={"items_hash": task.items_hash, "metric": task.card.metric},
    )


def _requests(task: LoadedTask) -> list[TaskRequest]:
    """Return lm-eval's request of each item, in the order of the items.

    Raises:
        UserError: an item has more than one request, the task does not generate, or the task has
            several filters and its card names none.
    """
    requests = sorted(task.requests, key=lambda request: int(request.doc_id))
    single = len({request.doc_id for request in requests}) == len(requests)
    kinds = {request.request_type for request in requests}
    filtered = task.card.filter is not None or len(task.task._filters) <= 1
    if kinds != {"generate_until"} or not single or not filtered:
        raise UserError(
            f"task {task.card.name!r}: only a task that generates one answer an item, filtered one "
            "way, runs in Inspect; run the others with dsmoe-eval or dsmoe-lm-eval"
        )
    return requests


def _config(task: LoadedTask, settings: GenerationSettings) -> Any:
    """Return Inspect's settings of decoding.

    Raises:
        UserError: Inspect has no such setting.
    """
    from inspect_ai.model import GenerateConfig

    decoding = read_decoding(settings)
    missing = [name for name, _ in decoding.shaping] + ["min_p"] * (decoding.min_p > 0)
    if missing:
        raise UserError(
            f"task {task.card.name!r}: Inspect has no {', '.join(missing)}; run it with dsmoe-eval "
            "or dsmoe-lm-eval"
        )
    return GenerateConfig(
        max_tokens=decoding.max_gen_toks,
        stop_seqs=list(decoding.until),
        temperature=decoding.drawn_at or 0.0,
        top_p=None if decoding.top_p in (0, 1) else decoding.top_p,
        top_k=decoding.top_k if decoding.top_k > 0 else None,
    )


def _scorer(task: LoadedTask, requests: dict[str, TaskRequest]) -> Any:
    from inspect_ai.scorer import Score, Target, accuracy, scorer, stderr
    from inspect_ai.solver import TaskState

    @scorer(  # type: ignore[untyped-decorator]  # checked without Inspect too
        metrics=[accuracy(), stderr()], name=task.card.metric
    )
    def lm_eval_metric() -> Callable[[TaskState, Target], Awaitable[Score]]:
        async def score(state: TaskState, target: Target) -> Score:
            del target  # in the request's document, as lm-eval reads it
            completion = state.output.completion
            judged = judge_response(task, requests[str(state.sample_id)], completion)
            return Score(
                value=judged.score,
                answer=str(judged.results[0]),
                explanation=completion,
                metadata={"invalid": judged.invalid},
            )

        return score

    return lm_eval_metric()
