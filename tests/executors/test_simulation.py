"""The simulated makespan against closed forms, bounds, and a simulation second by second."""

import heapq
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsmoe_eval.executors.costs import ModelCost, Stage
from dsmoe_eval.executors.schedule import ModelState, Needs, next_worker
from dsmoe_eval.executors.simulation import CLOSE, enough, simulate, unlimited

SECONDS = st.integers(1, 9)
STAGES = st.lists(
    st.builds(lambda parts: Stage("many", tuple(parts)), st.lists(SECONDS, min_size=1, max_size=9)),
    min_size=1,
    max_size=4,
)
MODELS = st.lists(
    st.builds(
        lambda gpus, weight, load, stages: (Needs(gpus, 1), weight, load, tuple(stages)),
        st.integers(1, 3), st.integers(1, 3), SECONDS, STAGES,
    ),
    min_size=1, max_size=4,
).map(lambda found: [ModelCost(f"m{i}", *one) for i, one in enumerate(found)])  # fmt: skip


def cost(name, *stages, load=0.0, gpus=1):
    return ModelCost(name, Needs(gpus, 1), 1.0, load, tuple(stages))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), SECONDS)
def test_equal_models_of_one_part(n, gpus, load, seconds):
    one = Stage("all", (seconds,))
    models = [cost(str(i), one, load=load) for i in range(n)]
    found = simulate(models, gpus)
    assert found.makespan == math.ceil(n / gpus) * (load + seconds)
    assert found.held == n * (load + seconds)
    assert found.busy == n * seconds
    assert found.utilisation == pytest.approx(n * seconds / gpus / found.makespan)


@given(st.lists(SECONDS, min_size=1, max_size=20), st.integers(1, 12), st.integers(0, 5))
def test_parts_of_one_model(parts, gpus, load):
    """The first worker begins after one loading; as many as there are parts follow after two."""
    free, ends = [load] + [2 * load] * (min(gpus, len(parts)) - 1), []
    for seconds in parts:  # each part goes to whoever is free first
        ends.append(heapq.heappop(free) + seconds)
        heapq.heappush(free, ends[-1])
    found = simulate([cost("m", Stage("many", tuple(parts)), load=load)], gpus)
    assert found.workers == {"m": min(gpus, len(parts))}
    assert found.makespan == max(ends)
    assert found.makespan <= sum(parts) / gpus + max(parts) + 2 * load  # Graham, 1966


class Crew:
    """The workers of one model: of each the seconds that are left, and what it does."""

    def __init__(self, model):
        self.model, self.workers, self.stage, self.end = model, [], 0, None
        self.left = [*model.stages[0].pieces]

    def doing(self, what):
        return [worker for worker in self.workers if worker[1] == what]

    def look(self, now):
        """See who is done, and give out parts; return how many workers leave."""
        for worker in self.workers:
            worker[1] = worker[1] if worker[0] else "idle"
        while self.end is None and self.doing("idle"):
            for worker in self.doing("idle")[: len(self.left)]:
                worker[:] = [self.left.pop(0), "part"]
            if self.left or self.doing("part"):
                break
            self.stage += 1
            if self.stage == len(self.model.stages):
                self.end = now
            else:
                self.left = [*self.model.stages[self.stage].pieces]
        leaving = [] if self.end is None else self.doing("idle")
        self.workers = [worker for worker in self.workers if worker not in leaving]
        return len(leaving)

    def state(self):
        one, crew = self.model, len(self.workers)
        loaded = self.stage > 0 or len(self.doing("load")) < crew
        opened = len(self.left) + len(self.doing("part")) if loaded else None
        return ModelState(one.model, one.needs, crew, opened, one.piece_work * (opened or 1))


def second_by_second(models, gpus):
    """Simulate in steps of one second, for times that are whole: the makespan, and what is held."""
    crews, held, now = {one.model: Crew(one) for one in models}, 0, 0
    while True:
        for crew in crews.values():
            gpus += crew.look(now) * crew.model.needs.gpus
        if all(crew.end is not None and not crew.workers for crew in crews.values()):
            return max(crew.end for crew in crews.values()), held
        while name := next_worker(
            [crew.state() for crew in crews.values() if crew.end is None],
            lambda needs, room=gpus: needs.gpus <= room,
        ):
            crews[name].workers.append([crews[name].model.load, "load"])
            gpus -= crews[name].model.needs.gpus
        for crew in crews.values():
            held += len(crew.workers) * crew.model.needs.gpus
            for worker in crew.workers:
                worker[0] -= worker[1] != "idle"
        now += 1


@settings(max_examples=150, deadline=None)
@example([cost("m", Stage("many", (1, 1)), load=9)], 3)  # the second worker loads in vain
@given(MODELS, st.integers(3, 9))
def test_events_are_those_of_every_second(models, gpus):
    found = simulate(models, gpus)
    assert (found.makespan, found.held) == second_by_second(models, gpus)


@settings(max_examples=60, deadline=None)
@given(MODELS, st.integers(3, 9))
def test_bounds(models, gpus):
    found = simulate(models, gpus)
    critical = max(sum(seconds for _, seconds in one.critical) for one in models)
    late = max(one.load for one in models)
    assert found.makespan >= max(critical, found.busy / gpus)
    assert found.busy <= found.held <= gpus * (found.makespan + late)
    assert 0 < found.utilisation <= 1
    most = unlimited(models)
    alone = simulate(models, most).makespan
    assert alone == simulate(models, 2 * most).makespan
    assert critical <= alone <= critical + max(one.load * len(one.stages) for one in models)


@given(st.lists(SECONDS, min_size=1), st.integers(0, 5))
def test_one_gpu_does_all_in_turn(parts, load):
    models = [cost(str(i), Stage("many", (one, one)), load=load) for i, one in enumerate(parts)]
    assert simulate(models, 1).makespan == sum(2 * one + load for one in parts)


def test_gpus_beyond_the_models_do_not_help():
    one = Stage("all", (100.0,))
    models = [cost(str(i), one, load=1.0) for i in range(7)]
    assert enough(models).gpus == 7
    assert enough([cost("m", Stage("many", (10.0,) * 40))]).gpus == 40
    assert enough([cost("m", one, gpus=4)]).gpus == 4


@settings(max_examples=30, deadline=None)
@given(MODELS)
def test_enough_is_enough_and_one_less_is_not(models):
    goal = CLOSE * simulate(models, unlimited(models)).makespan
    found = enough(models)
    assert found.makespan <= goal
    least = max(one.needs.gpus for one in models)
    if found.gpus > max(least, math.ceil(found.busy / goal)):
        assert simulate(models, found.gpus - 1).makespan > goal


def test_a_worker_that_needs_more_is_an_error():
    with pytest.raises(ValueError, match="more than 3"):
        simulate([cost("m", Stage("all", (1.0,)), gpus=4)], 3)
