"""The answers of a run: base and every arm on every task, cell by cell, after the probes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from ..engines.base import Figures
from ..engines.lm import EngineLM
from ..log import note
from ..progress import Steps, counted_as
from ..results.cells import Identity, is_done
from ..results.comparisons import ArmCells
from ..steering import Profile
from ..tasks.loading import LoadedTask, with_preamble
from .arms import PlannedArm, PreparedArm
from .cells import TaskAnswers, ask, cell_identity, run_cell, store_cell
from .job import Job
from .stages import note_probes, probed, seconds_since, tuning_questions


def answer_base(job: Job, steps: Steps) -> dict[str, str]:
    """Answer every task with base, and return task name -> cell id."""
    cells = {name: cell_identity(job, None, name) for name in job.base_tasks}
    answer_cells(job, cells, None, steps)
    return {name: identity.id for name, identity in cells.items()}


def answer_arms(job: Job, arms: Sequence[PreparedArm], steps: Steps) -> list[ArmCells]:
    """Answer what is missing of the arms' tasks, and return their cells in the same order.

    vLLM answers all steered arms together. Fine-tuned arms come last: for each of them vLLM is
    started once more, after the learner.
    """
    together = job.roles.mixing is not None
    answer_together(job, [arm for arm in arms if together and arm.profile is not None], steps)
    rest = [arm for arm in arms if not together or arm.profile is None]
    fine = [arm for arm in rest if arm.planned.variant.kind == "sft"]
    for arm in rest:
        if arm not in fine:
            answer_arm(job, arm, steps)
    for arm in arms:
        if arm.profile is not None:  # by the learner, where the engine does not show its routing
            _keep_routing(job, arm.planned, arm.profile)
    for arm in fine:
        answer_arm(job, arm, steps)
    return [
        ArmCells(
            arm.planned.variant,
            arm.planned.target,
            arm.settings,
            None if arm.profile is None else arm.profile.id,
            {name: identity.id for name, identity in _cells(job, arm).items()},
            arm.information,
        )
        for arm in arms
    ]


def _cells(job: Job, arm: PreparedArm) -> dict[str, Identity]:
    """Return task name -> the identity of its cell."""
    return {name: cell_identity(job, arm, name) for name in arm.planned.tasks}


def answer_arm(job: Job, arm: PreparedArm, steps: Steps) -> None:
    """Answer what is missing of an arm's tasks; if the arm is steered, the probes run first."""
    cells = _cells(job, arm)
    if all(is_done(job.folder, identity) for identity in cells.values()):
        steps.skip(sum(job.test[name].answers_asked for name in cells))
        return
    with _equipped(job, arm) as figures:
        answer_cells(job, cells, figures, steps, arm.planned.preamble)


def answer_together(job: Job, arms: Sequence[PreparedArm], steps: Steps) -> None:
    """Answer what is missing of the tasks of steered arms, all arms of a task in common batches.

    The probes of each arm run first. Where only some cells of a task are missing, as after a crash,
    all its arms answer again, so that the batches are the same; cells that exist stay.
    """
    cells = [_cells(job, arm) for arm in arms]
    missing = [
        {name for name, identity in of_arm.items() if not is_done(job.folder, identity)}
        for of_arm in cells
    ]
    figures: list[Figures | None] = []
    for arm, names in zip(arms, missing, strict=True):
        figures.append(_probed(job, arm) if names else None)
    for name in job.base_tasks:
        asked = [place for place, of_arm in enumerate(cells) if name in of_arm]
        for place in asked:
            if name not in missing[place]:
                steps.skip(job.test[name].answers_asked)
        if any(name in missing[place] for place in asked):
            each = [ArmCell(arms[i], cells[i][name], figures[i], name in missing[i]) for i in asked]
            _answer_task(job, name, each, steps)


@dataclass(frozen=True, slots=True)
class ArmCell:
    """The cell of a steered arm on a task that is answered for several arms together.

    Attributes:
        arm: the arm.
        identity: the identity of the cell.
        figures: the probes' figures; None if the arm needs no cell.
        missing: whether the cell is missing in the run's folder.
    """

    arm: PreparedArm
    identity: Identity
    figures: Figures | None
    missing: bool


def _answer_task(job: Job, name: str, cells: Sequence[ArmCell], steps: Steps) -> None:
    mixing, task, started = job.roles.mixing, job.test[name], time.perf_counter()
    profiles = [cell.arm.profile for cell in cells if cell.arm.profile is not None]
    if mixing is None or len(profiles) < len(cells):
        raise ValueError("only steered arms are answered together, in vLLM")
    with ExitStack() as counting:

        def caller(cell: ArmCell) -> Callable[[EngineLM], TaskAnswers]:
            if not cell.missing:
                return lambda lm: ask(lm, task, None)
            counted = counted_as(steps, task.answers_asked, task.requests_asked)
            count = counting.enter_context(counted)
            return lambda lm: ask(lm, task, job.folder.answers(cell.identity.id), count)

        asked = mixing.steer_each(job.lm, profiles, [caller(cell) for cell in cells])
    share = (time.perf_counter() - started) / len(cells)
    for cell, answered in zip(cells, asked, strict=True):
        if cell.missing:
            answered = replace(answered, seconds=share)
            store_cell(job.folder, cell.identity, job.lm, task, cell.figures, answered)
            _note_done(cell.identity, task, share)


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
        _note_done(identity, task, seconds_since(started))


def _note_done(identity: Identity, task: LoadedTask, seconds: float) -> None:
    note(
        "cell done",
        logging.DEBUG,
        cell=identity.id,
        variant=identity.variant,
        target=identity.target,
        task=task.card.name,
        items=len(task.items),
        answers=task.answers_asked,
        seconds=round(seconds, 3),
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
    figures = _probed(job, arm)
    with job.engine.steer(arm.profile):
        yield figures


def _probed(job: Job, arm: PreparedArm) -> Figures | None:
    """Probe a steered arm, and store its routing if it is shown; return the probes' figures."""
    if arm.profile is None:
        return None
    figures = run_probes(job, arm.planned, arm.profile)
    if job.roles.shows_routing:
        _keep_routing(job, arm.planned, arm.profile)
    return figures


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
