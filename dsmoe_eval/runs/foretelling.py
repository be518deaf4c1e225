"""The stage that foretells every arm's effect, on the identification split, before the test split.

Base and each arm answer the items of the identification split as they will answer those of the
test split. The mean change is what is foretold; its prediction interval is that of the test items'
mean. A file of it is written, and hashed, before an arm answers a test item.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial

import numpy as np
from rich.console import Console

from ..cards import OUTCOMES, OutcomeName
from ..errors import UserError
from ..experts import Form, RoutingCounts, layer_steps, stepped_form
from ..progress import Steps, counted_as, progress_bar
from ..results.cells import is_done
from ..results.foretold import ForetoldArm, ForetoldChange, Predictions, read_foretold
from ..stats import predict_mean
from ..tasks.items import WithItems
from ..tasks.loading import (
    LoadedTask,
    check_context_length,
    check_preamble,
    in_format,
    with_preamble,
)
from ..tasks.outcomes import has_gold_logprob
from ..variants import BASE
from .answering import own_weights
from .arms import PreparedArm
from .bench import Bench, open_bench
from .cells import ask, cell_identity, item_outcomes
from .first_order import Slopes, unit_shifts
from .influence import task_influence
from .job import Job
from .leases import Piece
from .outcome_items import items_by_task, own_answers

Outcomes = Mapping[OutcomeName, Sequence[float]]
"""Outcome -> the value of each item, more is better."""


def foretold_tasks(job: Job) -> dict[str, LoadedTask]:
    """Return the answered tasks of a run with their items of the identification split, by name."""
    return {
        name: in_format(task, job.lm)
        for name, task in job.identification.tasks.items()
        if isinstance(task, LoadedTask) and name in job.base_tasks
    }


def foretelling_answers(job: Job) -> int:
    """Return the number of answers by which a run foretells; 0 of a plan without `foretell`."""
    if not job.plan.foretell:
        return 0
    tasks = foretold_tasks(job)
    asked = [name for names in _asked(job) for name in names if name in tasks]
    return sum(tasks[name].answers_asked for name in asked)


def _asked(job: Job) -> list[Sequence[str]]:
    return [job.base_tasks, *(arm.tasks for arm in job.arms)]


def check_foretelling(job: Job) -> None:
    """Check that there are items to foretell from, and that their prompts fit, before a run begins.

    Raises:
        UserError: there are none, or the longest prompt does not fit.
    """
    if not job.plan.foretell:
        return
    tasks = foretold_tasks(job)
    lacking = [one for one in job.targets if job.suite.target_task(one).name not in tasks]
    if lacking:
        raise UserError(
            f"plan {job.plan.name!r}: foretell needs each target's items of the identification "
            f"split, and suite {job.suite.name!r} has none of {', '.join(lacking)}; give their "
            "tasks such a split, or leave foretell out"
        )
    for task in tasks.values():
        check_context_length(task, job.lm)
    lines = {(name, arm.preamble) for arm in job.arms if arm.preamble for name in arm.tasks}
    for name, line in sorted(lines):
        if name in tasks:
            check_preamble(tasks[name], line, job.lm)


def foretell(
    job: Job, counts: RoutingCounts, arms: Sequence[PreparedArm], console: Console
) -> None:
    """Answer what is missing of the identification split, and write `foretold.json`.

    Raises:
        UserError: an arm has answered the test split before, or the file was changed.
    """
    if not job.plan.foretell:
        return
    tasks = foretold_tasks(job)
    _check_first(job, arms)
    with progress_bar(console, "foretell effects", foretelling_answers(job), "answers") as steps:
        own, apart = own_weights(arms)
        order = [None, *own, *apart]
        with closing(open_bench(job)) as bench:
            job.leases.share([_piece(job, tasks, arm, bench, steps) for arm in order])
    with job.leases.turn("foretold"):
        if not job.folder.has(job.folder.foretold):
            _check_first(job, arms)
            slopes = _slopes(job, counts, tasks, arms, console)
            form = None if slopes is None else slopes.form
            found = Predictions(
                form=form, arms=tuple(_foretold(job, tasks, arm, slopes) for arm in arms)
            )
            job.folder.write_json(job.folder.foretold, found.model_dump(mode="json"))
        else:
            _check_kept(job, tasks, arms)


def _check_kept(job: Job, tasks: Mapping[str, LoadedTask], arms: Sequence[PreparedArm]) -> None:
    """Check that the predictions that are there are those of the answers on which they rest."""
    kept = read_foretold(job.folder)
    known = {} if kept is None else _figures(kept.arms)
    again = _figures([_foretold(job, tasks, arm, None) for arm in arms])
    if known.keys() != again.keys() or not all(
        np.allclose(known[key], again[key], rtol=1e-6, atol=1e-6, equal_nan=True) for key in again
    ):
        raise UserError(
            f"{job.folder.foretold}: does not follow from the answers in "
            f"{job.folder.foretelling('base').parent}, so one of the two was changed; restore it, "
            "or run again in another folder"
        )


def _figures(arms: Sequence[ForetoldArm]) -> dict[tuple[str, ...], tuple[float, ...]]:
    """Return (variant, target, task, outcome) -> the gain and the ends of its interval."""
    return {
        (arm.variant, arm.target, row.task, row.outcome): (
            row.gain,
            *(row.ci95 or (math.nan, math.nan)),
        )
        for arm in arms
        for row in arm.changes
    }


def _check_first(job: Job, arms: Sequence[PreparedArm]) -> None:
    """Check that no arm has answered the test split, unless the predictions are there."""
    identities = (cell_identity(job, arm, name) for arm in arms for name in arm.planned.tasks)
    answered = any(is_done(job.folder, identity) for identity in identities)
    if answered and not job.folder.has(job.folder.foretold):  # in this order: others may write
        raise UserError(
            f"{job.folder.foretold}: is missing, and arms have answered the test split already, "
            f"so that nothing can be foretold; restore it, or remove {job.folder.root / 'cells'} "
            "and run again"
        )


def _name(arm: PreparedArm | None) -> str:
    return BASE if arm is None else f"{arm.planned.target}--{arm.planned.variant.name}"


def _piece(
    job: Job,
    tasks: Mapping[str, LoadedTask],
    arm: PreparedArm | None,
    bench: Bench,
    steps: Steps,
) -> Piece:
    names = job.base_tasks if arm is None else arm.planned.tasks
    line = None if arm is None else arm.planned.preamble
    own = {name: with_preamble(tasks[name], line) for name in names if name in tasks}
    path, name = job.folder.foretelling(_name(arm)), f"foretell-{_name(arm)}"

    def do() -> None:
        bench.take(arm)
        job.roles.start()
        found = {}
        for task in own.values():
            with counted_as(steps, task.answers_asked, task.requests_asked) as count:
                remembered = job.folder.answers(f"{name}--{task.card.name}")
                asked = ask(job.lm, task, remembered, count)
            outcomes = item_outcomes(job.lm, task, asked)
            found[task.card.name] = {key: values.tolist() for key, values in outcomes.items()}
        job.folder.write_json(path, found)
        job.folder.forget_answers(name)

    answers = sum(task.answers_asked for task in own.values())
    return Piece(name, partial(job.folder.has, path), do, partial(steps.skip, answers))


def _foretold(
    job: Job, tasks: Mapping[str, LoadedTask], arm: PreparedArm, slopes: Slopes | None
) -> ForetoldArm:
    planned, profile = arm.planned, arm.profile
    base, after = (job.folder.read_json(job.folder.foretelling(_name(who))) for who in (None, arm))

    # Of a quantized model the change from base is rounding's too, which no slope knows of.
    known = None if planned.variant.quantized is not None else slopes

    def changes(name: str) -> Iterator[ForetoldChange]:
        first = None if known is None or profile is None else known.of(profile, name)
        yield from foretold_changes(tasks[name], job.test[name], base[name], after[name], first)

    return ForetoldArm(
        variant=planned.variant.name,
        target=planned.target,
        profile=None if profile is None else profile.id,
        changes=tuple(row for name in planned.tasks if name in tasks for row in changes(name)),
        without=tuple(name for name in planned.tasks if name not in tasks),
    )


def foretold_changes(
    task: LoadedTask,
    test: LoadedTask,
    base: Outcomes,
    after: Outcomes,
    first_order: float | None = None,
) -> Iterator[ForetoldChange]:
    """Yield what is foretold of each outcome of a task.

    Args:
        task: the task with the items that were answered.
        test: the task with the items to come.
        base: the outcomes of base.
        after: those of the arm.
        first_order: the effect on `gold_logprob` to first order, if it is known.
    """
    coming = [item.cluster for item in test.items]
    for name in (name for name in OUTCOMES if name in base):  # a file has them in another order
        found = predict_mean(base[name], after[name], [item.cluster for item in task.items], coming)
        yield ForetoldChange(
            task=task.card.name,
            outcome=name,
            n=found.n,
            clusters=found.clusters,
            test_clusters=len(set(coming)),
            gain=found.delta,
            ci95=found.ci95,
            first_order=first_order if name == "gold_logprob" else None,
        )


def _slopes(
    job: Job,
    counts: RoutingCounts,
    tasks: Mapping[str, LoadedTask],
    arms: Sequence[PreparedArm],
    console: Console,
) -> Slopes | None:
    """Return the influence of experts on the tasks; None where no arm shifts logits.

    Where a method has computed the exact form, it is only read again; else the gradient form takes
    one pass. Where another engine answers, the learner is not started again for it.
    """
    plain = [arm.profile for arm in arms if arm.planned.variant.quantized is None]
    shifting = [profile for profile in plain if profile and not profile.is_null]
    if job.roles.are_two or all(unit_shifts(profile) is None for profile in shifting):
        return None
    asked: Mapping[str, WithItems] = {n: t for n, t in tasks.items() if has_gold_logprob(t)}
    form, chat, root = Form(), job.lm.uses_chat_template, job.folder.observations
    settings, answers = job.plan.identification, None
    if counts.influence is not None and settings.chat_template == chat:  # as will be answered
        sites = job.learner.identity.sites
        form = stepped_form(layer_steps(counts, sites), sites)
        asked = job.identification.tasks
        answers = own_answers(job.learner, root) if settings.phase == "generated" else None
    read = items_by_task(job.learner, asked, chat, answers)
    with progress_bar(console, "influence of experts", read.texts, "texts") as steps:
        found = task_influence(job.learner, read, form, root, steps)
    known = {name: found[name] for name in tasks if has_gold_logprob(tasks[name])}
    return Slopes("gradient" if form.steps is None else "exact", known)
