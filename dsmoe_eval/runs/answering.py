"""The answers of a run: base and every arm on every task, cell by cell, after the probes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..engines.base import Figures
from ..log import note
from ..progress import Steps, counted_as
from ..results.cells import Identity, is_done
from ..results.comparisons import ArmCells
from ..steering import Profile
from ..tasks.loading import with_preamble
from .arms import PlannedArm, PreparedArm
from .cells import cell_identity, run_cell
from .job import Job
from .stages import note_probes, probed, seconds_since, tuning_questions


def answer_base(job: Job, steps: Steps) -> dict[str, str]:
    """Answer every task with base, and return task name -> cell id."""
    cells = {name: cell_identity(job, None, name) for name in job.base_tasks}
    answer_cells(job, cells, None, steps)
    return {name: identity.id for name, identity in cells.items()}


def answer_arms(job: Job, arms: Sequence[PreparedArm], steps: Steps) -> list[ArmCells]:
    """Answer what is missing of the arms' tasks, and return their cells in the same order.

    Fine-tuned arms come last: for each of them vLLM is started once more, after the learner.
    """
    fine = [arm for arm in arms if arm.planned.variant.kind == "sft"]
    answered = {arm.planned: answer_arm(job, arm, steps) for arm in arms if arm not in fine}
    for arm in arms:
        if arm.profile is not None:  # by the learner, where the engine does not show it
            _keep_routing(job, arm.planned, arm.profile)
    answered |= {arm.planned: answer_arm(job, arm, steps) for arm in fine}
    return [answered[arm.planned] for arm in arms]


def answer_arm(job: Job, arm: PreparedArm, steps: Steps) -> ArmCells:
    """Answer what is missing of an arm's tasks; if the arm is steered, the probes run first."""
    planned = arm.planned
    cells = {name: cell_identity(job, arm, name) for name in planned.tasks}
    if all(is_done(job.folder, identity) for identity in cells.values()):
        steps.skip(sum(job.test[name].answers_asked for name in cells))
    else:
        with _equipped(job, arm) as figures:
            answer_cells(job, cells, figures, steps, planned.preamble)
    profile = None if arm.profile is None else arm.profile.id
    ids = {name: identity.id for name, identity in cells.items()}
    return ArmCells(planned.variant, planned.target, arm.settings, profile, ids, arm.information)


def answer_cells(
    job: Job,
    cells: Mapping[str, Identity],
    figures: Figures | None,
    steps: Steps,
    preamble: str | None = None,
) -> None:
    """Answer what is missing of some tasks with the model in its present state.

    Args:
        job: the run.
        cells: task name -> the identity of its cell.
        figures: the probes' figures, for a steered model.
        steps: the counter of answers.
        preamble: the line before each prompt, as the cells' identities say; None: no such line.
    """
    for name, identity in cells.items():
        task, started = with_preamble(job.test[name], preamble), time.perf_counter()
        if is_done(job.folder, identity):
            steps.skip(task.answers_asked)
            continue
        job.roles.start()
        with counted_as(steps, task.answers_asked, task.requests_asked) as count:
            run_cell(job.folder, identity, job.lm, task, figures, count)
        note(
            "cell done",
            logging.DEBUG,
            cell=identity.id,
            variant=identity.variant,
            target=identity.target,
            task=name,
            items=len(task.items),
            answers=task.answers_asked,
            seconds=seconds_since(started),
        )


@contextmanager
def _equipped(job: Job, arm: PreparedArm) -> Iterator[Figures | None]:
    """Steer or adapt the model for the arm; yield the probes' figures, None if not steered."""
    planned = arm.planned
    if planned.variant.kind == "prompt":
        yield None
        return
    if arm.profile is None:
        path = job.folder.adapter(planned.variant.name, planned.target)
        with job.roles.adapted(path, job.folder.merged):
            yield None
        return
    figures = run_probes(job, planned, arm.profile)
    if job.roles.shows_routing:
        _keep_routing(job, planned, arm.profile)
    with job.engine.steer(arm.profile):
        yield figures


def run_probes(job: Job, arm: PlannedArm, profile: Profile) -> Figures:
    """Run both probes on the target's tuning questions, before any steered answer counts."""
    must_act = arm.variant.expert_source != "random_matched"
    figures = job.engine.prober(probed(job, arm)).probe(profile, must_act)
    note_probes(arm, profile, figures)
    return figures


def _keep_routing(job: Job, arm: PlannedArm, profile: Profile) -> None:
    """Store the routing of the target's tuning questions, without and with steering."""
    path = job.folder.routing(arm.variant.name, arm.target)
    if job.folder.has(path):
        return
    engine, texts = job.roles.observer, tuning_questions(job, arm)
    before = engine.usage(texts)
    with engine.steer(profile):
        after = engine.usage(texts)
    job.folder.write_json(path, {"base": before.tolist(), "steered": after.tolist()})
