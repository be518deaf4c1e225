"""Estimates of the answers, the cost and the power of a plan, before it runs.

No weights are read: sizes come from the model cards and from the files of model folders. Items and
prompts are loaded and checked as `run` does it, and what `run` would refuse is refused; tasks that
this machine cannot read are counted by the suite's figures. Times are lower bounds: the arithmetic
alone, at the peak rate of one accelerator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from ..cards import Plan, StageSplit, Suite, Task
from ..registry import load_plan
from ..stats import smallest_effect
from ..tasks.identification import IdentificationText, suite_text
from ..tasks.leakage import check_leakage
from ..tasks.loading import LoadedTask
from ..tasks.outcomes import check_outcome
from ..tasks.splits import data_name, load_splits
from .arms import PlannedRun, plan_run
from .reading_sizes import CHARACTERS_A_TOKEN, reading_sizes
from .sizes import model_size
from .stability import stability_cells

PEAK_FLOPS = 989e12
"""The peak rate of one H100 SXM in bfloat16, dense, by its data sheet, in operations per second."""
DISCORDANCE = (0.1, 0.3)
"""The shares of items on which two variants differ for which the smallest effects are given."""


@dataclass(frozen=True, slots=True)
class TaskEstimate:
    """The estimate of one task.

    Attributes:
        test: the number of items of the test part; `tuning` and `identification` likewise.
        samples: the number of answers to each item.
        from_data: whether the items were read; if not, the numbers are the suite's, and the prompts
            are not known.
        prompt_tokens: the tokens of one item's prompt, the forward passes of all its options
            counted as one; None if not known.
        answer_tokens: the most tokens of one item's answer; 0 where options are scored, None if not
            known.
        smallest: the smallest change that the task can show with 80 % power at the plan's
            strictest Holm level, by `DISCORDANCE`; None where no change is large enough, and of
            texts, whose smallest change needs a pilot (`outcome_power`).
    """

    task: str
    domain: str
    roles: tuple[str, ...]
    test: int
    tuning: int
    identification: int
    samples: int
    from_data: bool
    prompt_tokens: int | None
    answer_tokens: int | None
    smallest: tuple[float | None, ...]
    note: str | None


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """The estimate of one model; figures are None where it has neither a card nor a folder here.

    Attributes:
        tokens: the tokens of the plan, or more where the model thinks before it answers.
        generated: those of them in answers, every answer at its longest.
        weights_gib: the size of the weights in GiB, as published or of the folder's safetensors.
        petaflop: 2 operations per active weight and token, of prompts and longest answers, in 1e15.
        hours: the time of these operations at `PEAK_FLOPS`, which no real system reaches.
    """

    model: str
    tokens: int
    generated: int
    weights_gib: float | None
    petaflop: float | None
    hours: float | None


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The estimate of a whole plan.

    Attributes:
        engine: the engine that would answer; `learner` the one that would learn.
        devices: the number of devices, each with its part of the weights.
        cells: the number of cells of one model.
        answers: one model's answers on the test part; `tuning_answers` those on the tuning part.
        foretelling_answers: those on the identification part, of a plan with `foretell`.
        tokens: the tokens of one model, prompts and longest answers, without tasks whose tokens are
            not known.
        complete: whether `tokens` counts every task.
        identification_texts: the number of texts, or chunks of them, from which experts are
            identified, and `identification_tokens` those of one pass over them, which are not among
            `tokens`: their passes are forward and, for the saliency of tokens, backward.
        influence_items: the number of items whose right answers influence reads, by a forward and
            backward pass of each option; `influence_tokens` those of these passes, likewise apart.
        claims: the number of claims in the family that Holm adjusts.
        control_cells: the cells that controls need, which are among `cells`.
        control_tokens: the tokens of these cells, as `tokens`.
        stability_cells: the cells of the stage `stability`, which come after `cells`.
        stability_answers: the number of answers of these cells.
    """

    plan: str
    suite: str
    engine: str
    learner: str
    devices: int
    variants: tuple[str, ...]
    targets: tuple[str, ...]
    tasks: tuple[TaskEstimate, ...]
    cells: int
    answers: int
    tuning_answers: int
    tokens: int
    complete: bool
    identification_texts: int
    identification_tokens: int
    claims: int
    control_cells: int
    control_tokens: int
    stability_cells: int
    stability_answers: int
    models: tuple[ModelEstimate, ...]
    foretelling_answers: int = 0
    influence_items: int = 0
    influence_tokens: int = 0

    def to_dict(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self)


def estimate(
    plan_name: str,
    models: Sequence[str] = (),
    limit: int | None = None,
    data: Sequence[Path] = (),
) -> CostEstimate:
    """Estimate the answers, the tokens, the cost and the power of a plan.

    Args:
        plan_name: a built-in plan's name or the path of a YAML file.
        models: the models, which replace those of the plan.
        limit: the limit of items per task and part.
        data: folders of data sets; if empty, they come from the hub.

    Raises:
        UserError: the plan cannot be run; the message is that of `run`.
    """
    plan, path = load_plan(plan_name)
    planned, names = plan_run(plan, path), models or plan.models or (plan.named_model,)
    arms = planned.arms
    claims = sum(arm.variant.family == "arms" for arm in arms)
    level = plan.significance_level / max(1, claims)
    tasks, text = _tasks(planned, level, limit, data)
    cells = Counter(planned.base_tasks) + Counter(name for arm in arms for name in arm.tasks)
    controls = Counter(name for arm in arms if arm.variant.control_of for name in arm.tasks)
    answers, of_controls = _counted(tasks, "test", cells), _counted(tasks, "test", controls)
    tuning, spread = _counted(tasks, "tuning", _tried(planned)), stability_cells(planned)
    again, ahead = _counted(tasks, "test", spread), _foretold(plan, tasks, cells)
    return CostEstimate(
        plan=plan.name,
        suite=planned.suite.name,
        engine=plan.engine,
        learner=plan.learner,
        devices=plan.tensor_parallel,
        variants=tuple(variant.name for variant in planned.variants),
        targets=planned.targets,
        tasks=tuple(tasks.values()),
        cells=cells.total(),
        answers=answers.total(),
        tuning_answers=tuning.total(),
        foretelling_answers=ahead.total(),
        tokens=_tokens(tasks, counts := answers + tuning + again + ahead),
        complete=all(task.prompt_tokens is not None for task in tasks.values()),
        **reading_sizes(text.tasks, planned.reads_influence),
        claims=claims,
        control_cells=controls.total(),
        control_tokens=_tokens(tasks, of_controls),
        stability_cells=spread.total(),
        stability_answers=again.total(),
        models=tuple(_model(name, plan, tasks, counts, limit) for name in names),
    )


def _foretold(plan: Plan, tasks: Mapping[str, TaskEstimate], cells: Counter[str]) -> Counter[str]:
    """Count the answers to the identification part, as often as a task is answered later."""
    return _counted(tasks, "identification", cells if plan.foretell else Counter())


def _tried(planned: PlannedRun) -> Counter[str]:
    """Count how often tuning answers each task: once by base, once per setting of each arm."""
    if planned.plan.tuning is None:
        return Counter()
    times = Counter(planned.base_tasks)
    for arm in planned.arms:
        times.update({name: len(arm.grid) for name in arm.tasks})
    return times


def _counted(
    tasks: Mapping[str, TaskEstimate], stage: StageSplit, times: Counter[str]
) -> Counter[str]:
    """Count the answers to each task's items of a stage, each item answered `times` times."""
    items = {name: int(getattr(task, stage)) for name, task in tasks.items()}
    return Counter({name: items[name] * tasks[name].samples * times[name] for name in tasks})


def _tasks(
    planned: PlannedRun, level: float, limit: int | None, data: Sequence[Path]
) -> tuple[dict[str, TaskEstimate], IdentificationText]:
    """Read the tasks that the plan uses, by the code that loads and checks them for `run`.

    Returns:
        The estimate of each task, and the identification text.
    """
    suite, unread = planned.suite, dict[str, str]()
    splits = load_splits(suite, limit, data, planned.read_targets, unread, planned.reads_answers)
    check_outcome([*splits["test"].values()], planned.plan.outcome)
    text = suite_text(suite, splits["identification"], limit)
    check_leakage(splits | {"identification": text.tasks}, planned.plan.allow_leakage)
    used = {
        task.name for task in (*suite.identification_tasks, *map(suite.task, planned.base_tasks))
    }
    found = {}
    for task in suite.tasks:
        if task.name in used:
            stages = {stage: by[task.name] for stage, by in splits.items() if task.name in by}
            note = unread.get(data_name(task))
            found[task.name] = _task(
                suite, task, stages if note is None else {}, note, level, limit
            )
    return found, text


def _task(
    suite: Suite,
    task: Task,
    stages: Mapping[str, LoadedTask],
    note: str | None,
    level: float,
    limit: int | None,
) -> TaskEstimate:
    counts = {stage: len(one.items) for stage, one in stages.items()} or published_items(
        suite, task, limit
    )
    prompt, answer = _prompt_and_answer(stages["test"]) if "test" in stages else (None, None)
    test = counts.get("test", 0)
    return TaskEstimate(
        task=task.name,
        domain=task.domain,
        roles=task.roles,
        test=test,
        tuning=counts.get("tuning", 0),
        identification=counts.get("identification", 0),
        samples=task.samples,
        from_data=bool(stages),
        prompt_tokens=prompt,
        answer_tokens=answer,
        smallest=tuple(
            None if task.is_text else _smallest(test, share, level) for share in DISCORDANCE
        ),
        note=note,
    )


def published_items(suite: Suite, task: Task, limit: int | None = None) -> dict[str, int]:
    """Count a task's items in each part by the suite's figure for the whole test split.

    Parts that come from other splits are left out: the suite does not know their sizes.
    """
    whole = task.items or 0
    splits = {stage: suite.stage_split(task, stage) for stage in get_args(StageSplit)}
    test = suite.stage_split(task, "test")
    return {
        stage: min(round(whole * split.share), limit or whole)
        for stage, split in splits.items()
        if split is not None and test is not None and split.split == test.split
    }


def _prompt_and_answer(task: LoadedTask) -> tuple[int, int]:
    requests = task.requests
    characters = sum(len(str(request.args[0])) for request in requests) / len(requests)
    *_, settings = requests[0].args  # of a text its arguments are the text alone
    answer = int(settings["max_gen_toks"]) if isinstance(settings, dict) else 0
    return math.ceil(characters / CHARACTERS_A_TOKEN), answer


def _tokens(tasks: Mapping[str, TaskEstimate], counts: Mapping[str, int], thinking: int = 0) -> int:
    """Sum the tokens of prompts and longest answers.

    Args:
        tasks: the estimates of the tasks; prompts that are not known count as 0 tokens.
        counts: task name -> the number of answers.
        thinking: the least length of a longest generated answer, for models that think.
    """
    read = sum(counts[name] * (task.prompt_tokens or 0) for name, task in tasks.items())
    return read + _generated(tasks, counts, thinking)


def _generated(tasks: Mapping[str, TaskEstimate], counts: Mapping[str, int], thinking: int) -> int:
    longest = ((counts[name], task.answer_tokens) for name, task in tasks.items())
    return sum(count * max(answer, thinking) for count, answer in longest if answer)


def _smallest(items: int, discordance: float, level: float) -> float | None:
    effect = smallest_effect(items, discordance, alpha=level) if items else math.nan
    return None if math.isnan(effect) else effect


def _model(
    name: str,
    plan: Plan,
    tasks: Mapping[str, TaskEstimate],
    counts: Mapping[str, int],
    limit: int | None,
) -> ModelEstimate:
    size = model_size(name, plan, limit)
    if size is None:
        generated = _generated(tasks, counts, 0)
        return ModelEstimate(name, _tokens(tasks, counts), generated, None, None, None)
    tokens, generated = (count(tasks, counts, size.thinking) for count in (_tokens, _generated))
    flop = 2 * size.active_parameters * tokens
    hours = flop / PEAK_FLOPS / 3600
    return ModelEstimate(name, tokens, generated, size.weights_gib, flop / 1e15, hours)
