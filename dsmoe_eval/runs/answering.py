"""The answers of a run: base and every arm on every task, cell by cell, after the probes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial

from ..engines.base import Figures
from ..engines.lm import EngineLM
from ..log import note
from ..progress import Steps, counted_as
from ..results.cells import Identity, is_done
from ..results.other_arms import ArmCells
from ..tasks.loading import LoadedTask, with_preamble
from .acting import evidence_of
from .arms import PreparedArm
from .bench import Bench, keep_rounded_routing, keep_routing, open_bench, probe_arm
from .cells import TaskAnswers, ask, cell_identity, run_cell, store_cell
from .job import Job
from .leases import Piece
from .stages import seconds_since


def answer_tests(job: Job, arms: Sequence[PreparedArm], steps: Steps) -> None:
    """Answer what is missing of base's and the arms' tasks, of this worker's part at least.

    vLLM answers all steered arms together. Fine-tuned arms and those on quantized models come last:
    for each of these models vLLM is started once more, after the learner.
    """
    own, apart = own_weights(arms)
    mixing = job.roles.mixing is not None
    steered = [arm for arm in own if mixing and arm.profile is not None]
    rest = [arm for arm in own if not (mixing and arm.profile is not None)]
    with closing(open_bench(job)) as bench:
        first = [AskedCell(None, name) for name in job.base_tasks]
        first += _asked(rest)
        last = _asked(apart)
        pieces = cell_pieces(job, first, bench, steps)
        pieces += Together(job, steered, steps).pieces()
        job.leases.share(pieces, by_shard=True)
        for arm in own:
            if arm.profile is not None:  # by the learner, where the engine does not show it
                with job.leases.turn(f"routing-{arm.planned.name}"):
                    keep_routing(job, arm.planned, arm.profile)
        job.leases.share(cell_pieces(job, last, bench, steps), by_shard=True)
    for arm in apart:
        keep_rounded_routing(job, arm)


def own_weights(
    arms: Sequence[PreparedArm],
) -> tuple[list[PreparedArm], list[PreparedArm]]:
    """Return the arms that answer by the model's weights, and the others, like ones together."""
    forms = [arm.planned.variant.quantized for arm in arms]
    plain = [arm for arm, form in zip(arms, forms, strict=True) if form is None]
    fine = [arm for arm in plain if arm.planned.variant.kind == "sft"]
    own = [arm for arm in plain if arm not in fine]
    for form in dict.fromkeys(one for one in forms if one is not None):
        fine += [arm for arm in arms if arm.planned.variant.quantized == form]
    return own, fine


def base_cells(job: Job) -> dict[str, str]:
    """Return task name -> the id of base's cell."""
    return {name: cell_identity(job, None, name).id for name in job.base_tasks}


def arm_cells(job: Job, arms: Sequence[PreparedArm]) -> list[ArmCells]:
    """Return the arms with the ids of their cells, in the same order."""
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


@dataclass(frozen=True, slots=True)
class AskedCell:
    """A cell that the run needs.

    Attributes:
        arm: the arm; None is base.
        task: the name of the task.
        line: the line before each prompt; None: the arm's, if it has one.
    """

    arm: PreparedArm | None
    task: str
    line: str | None = None


def _asked(arms: Iterable[PreparedArm]) -> list[AskedCell]:
    return [AskedCell(arm, name) for arm in arms for name in arm.planned.tasks]


def cell_pieces(job: Job, cells: Iterable[AskedCell], bench: Bench, steps: Steps) -> list[Piece]:
    """Return cells as pieces that workers share."""
    return [_piece(job, cell, bench, steps) for cell in cells]


def _piece(job: Job, cell: AskedCell, bench: Bench, steps: Steps) -> Piece:
    identity = cell_identity(job, cell.arm, cell.task, cell.line)
    line = cell.line
    if line is None and cell.arm is not None:
        line = cell.arm.planned.preamble
    task = with_preamble(job.test[cell.task], line)

    def do() -> None:
        figures, started = bench.take(cell.arm), time.perf_counter()
        job.roles.start()
        with counted_as(steps, task.answers_asked, task.requests_asked) as count:
            evidence = evidence_of(job, cell.arm, figures, bench.share)
            run_cell(job.folder, identity, job.lm, task, figures, count, evidence)
        _note_done(identity, task, seconds_since(started))

    return Piece(
        identity.id,
        done=partial(is_done, job.folder, identity),
        do=do,
        skip=partial(steps.skip, task.answers_asked),
    )


class Together:
    """Steered arms whose cells of a task are answered in common batches, in vLLM.

    The probes of each arm run first. Where only some cells of a task are missing, as after a crash,
    all its arms answer again, so that the batches are the same; cells that exist stay.
    """

    def __init__(self, job: Job, arms: Sequence[PreparedArm], steps: Steps) -> None:
        self._job, self._arms, self._steps = job, arms, steps
        self._cells = [_cells(job, arm) for arm in arms]
        self._figures: dict[int, Figures | None] = {}

    def pieces(self) -> list[Piece]:
        """Return the tasks, each with the cells of all its arms, as pieces that workers share."""
        names = [name for name in self._job.base_tasks if self._places(name)]
        return [
            Piece(
                f"arms-{name}",
                done=partial(self._is_done, name),
                do=partial(self._do, name),
                skip=partial(self._skip, name),
            )
            for name in names
        ]

    def _places(self, name: str) -> list[int]:
        """Return the indices of the arms that answer a task."""
        return [place for place, of_arm in enumerate(self._cells) if name in of_arm]

    def _missing(self, place: int, name: str) -> bool:
        return not is_done(self._job.folder, self._cells[place][name])

    def _is_done(self, name: str) -> bool:
        return not any(self._missing(place, name) for place in self._places(name))

    def _skip(self, name: str) -> None:
        self._steps.skip(self._job.test[name].answers_asked * len(self._places(name)))

    def _do(self, name: str) -> None:
        each = []
        for place in self._places(name):
            arm, missing = self._arms[place], self._missing(place, name)
            if missing and place not in self._figures:
                self._figures[place] = probe_arm(self._job, arm)
            if not missing:
                self._steps.skip(self._job.test[name].answers_asked)
            figures = self._figures.get(place)
            each.append(ArmCell(arm, self._cells[place][name], figures, missing))
        _answer_task(self._job, name, each, self._steps)


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
            evidence = evidence_of(job, cell.arm, cell.figures)
            store_cell(job.folder, cell.identity, job.lm, task, cell.figures, answered, evidence)
            _note_done(cell.identity, task, share)


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
