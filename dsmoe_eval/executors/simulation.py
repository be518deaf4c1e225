"""The simulation of a matrix of models on a number of GPUs, event by event.

The workers are started by `next_worker`, as the executor on Ray starts them, and behave as its
workers do: each loads the model, takes one free part of the present step after the other, waits
where others still do the rest, and keeps its GPUs until the model is finished.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from .costs import ModelCost
from .schedule import ModelState, Needs, next_worker

CLOSE = 1.05
"""More GPUs stop helping where the makespan is at most this many times that of unlimited ones."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated run of a matrix.

    Attributes:
        gpus: the number of GPUs.
        makespan: the seconds from the start to the end of the last model.
        held: the GPU-seconds of all workers, from their starts to the ends of their models.
        busy: the GPU-seconds in which they do parts of the steps; loading is not among them.
        workers: the number of workers of each model.
    """

    gpus: int
    makespan: float
    held: float
    busy: float
    workers: dict[str, int]

    @property
    def utilisation(self) -> float:
        """The share of the GPUs' time in which they do parts of the steps."""
        return self.busy / (self.gpus * self.makespan) if self.makespan else 0.0


class _Run:
    """A model while it is simulated; with the parts of the present step that are still free."""

    def __init__(self, cost: ModelCost) -> None:
        self.cost = cost
        self.started: list[float] = []
        self.end: float | None = None
        self.idle = 0
        self._stages, self._left = deque(cost.stages), deque[float]()
        self._at_work = 0

    @property
    def state(self) -> ModelState:
        """What the planning sees."""
        one, opened = self.cost, len(self._left) + self._at_work
        work = one.piece_work * (opened or 1)
        return ModelState(one.model, one.needs, len(self.started), opened, work)

    def freed(self, now: float, *, from_part: bool) -> list[float]:
        """Set a worker free, after loading or a part, and return the parts that begin then.

        Returns:
            The seconds of each.
        """
        self.idle += 1
        self._at_work -= from_part
        begun: list[float] = []
        while True:
            while self.idle and self._left:
                begun.append(self._left.popleft())
                self.idle, self._at_work = self.idle - 1, self._at_work + 1
            if self._left or self._at_work:
                return begun
            if not self._stages:
                self.end = now if self.end is None else self.end
                return begun
            self._left.extend(self._stages.popleft().pieces)

    @property
    def held(self) -> float:
        """The GPU-seconds of all workers; one that has loaded too late ends at once."""
        end, load = self.end or 0.0, self.cost.load
        return self.cost.needs.gpus * sum(max(end - one, load) for one in self.started)


def simulate(models: Sequence[ModelCost], gpus: int) -> Simulated:
    """Run a matrix of models on a number of GPUs, on paper.

    Raises:
        ValueError: a worker needs more GPUs than there are.
    """
    if any(one.needs.gpus > gpus for one in models):
        raise ValueError(f"a worker needs more than {gpus} GPUs")
    runs = {one.model: _Run(one) for one in models}
    free, now, numbers = gpus, 0.0, count()
    events: list[tuple[float, int, str, bool]] = []  # time, number, model, whether a part ends
    while True:
        while (model := _next([*runs.values()], free)) is not None:
            runs[model].started.append(now)
            free -= runs[model].cost.needs.gpus
            heappush(events, (now + runs[model].cost.load, next(numbers), model, False))
        if not events:
            break
        now = events[0][0]
        while events and events[0][0] == now:
            *_, model, from_part = heappop(events)
            run = runs[model]
            for seconds in run.freed(now, from_part=from_part):
                heappush(events, (now + seconds, next(numbers), model, True))
            if run.end is not None:
                free += run.idle * run.cost.needs.gpus
                run.idle = 0
    return Simulated(
        gpus=gpus,
        makespan=max((run.end or 0.0 for run in runs.values()), default=0.0),
        held=sum(run.held for run in runs.values()),
        busy=sum(one.needs.gpus * one.work for one in models),
        workers={model: len(run.started) for model, run in runs.items()},
    )


def _next(runs: Sequence[_Run], free: int) -> str | None:
    """Return the model that gets the next worker, if any GPU is free."""
    if not free:
        return None

    def fits(needs: Needs) -> bool:
        return needs.gpus <= free

    return next_worker([run.state for run in runs if run.end is None], fits)


def unlimited(models: Sequence[ModelCost]) -> int:
    """Return a number of GPUs beyond which no worker could be started at any time."""
    most = (max(len(stage.pieces) for stage in one.stages) for one in models)
    return sum(one.needs.gpus * (n + 1) for one, n in zip(models, most, strict=True))


def enough(models: Sequence[ModelCost]) -> Simulated:
    """Find the fewest GPUs whose makespan is close to that of unlimited ones, by bisection.

    Fewer than this number are too few at the last step of the bisection; a smaller number that
    would do by chance is not searched for.
    """
    most = simulate(models, unlimited(models))
    goal = CLOSE * most.makespan
    low = max(max(one.needs.gpus for one in models), math.ceil(most.busy / goal)) - 1
    best = most
    while low + 1 < best.gpus:
        tried = simulate(models, (low + best.gpus) // 2)
        if tried.makespan <= goal:
            best = tried
        else:
            low = tried.gpus
    return best
