"""The time that each step of a plan takes on GPUs, on paper: tokens by measured and assumed rates.

What is measured is from docs/performance.md: one NVIDIA H200, transformers, bfloat16. What is only
assumed says so in `ASSUMPTIONS`, which every output of these figures shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..cards import Plan, StageSplit
from ..runs.arms import PlannedArm, PlannedRun
from ..runs.estimate import CostEstimate, TaskEstimate
from ..runs.learning import courses
from ..runs.sizes import PlannedSize, model_size
from ..runs.stability import stability_cells
from .schedule import Needs, piece_work

GPU_GIB = 131.0
"""The memory of an H200, 141 GB."""
PRODUCTS = 780e12
"""Operations per second in plain bfloat16 products, measured."""
PROMPT_TIMES = 5.4
"""The time of a prompt over that of its products: OLMoE-1B-7B, 2,048 tokens, measured."""
SCORING_TIMES = 18.1
"""The same of scored options: OLMoE-1B-7B, five-shot, options of several tokens, measured."""
LEARNING_TIMES = 14.1
"""The same of identification, forward and backward: Qwen3-30B-A3B, measured."""
LOADED_A_SECOND = 1e9
"""Bytes of weights that a worker reads per second from a shared folder, assumed."""
COMPARISON_SECONDS = 300.0
"""The time of the comparison of all cells, assumed."""
ON_FORWARD, ON_BOTH = 2, 4
"""Operations per active weight and token: of a forward pass, and of forward and backward to the
activations (no weight of the model is trained)."""


@dataclass(frozen=True, slots=True)
class EngineRates:
    """How fast an engine generates and starts.

    Attributes:
        rows: the number of answers that are generated at once.
        weights_a_second: the bytes of weights that its decoding steps of these answers pass per
            second and GPU.
        start: the seconds of a start beside the loading of weights.
    """

    rows: int
    weights_a_second: float
    start: float


RATES: Mapping[str, EngineRates] = {
    "transformers": EngineRates(64, 13.8e9 * 1580 / 64, 0.0),
    "vllm": EngineRates(256, 2.5e12 / 2, 60.0),
}
"""transformers: measured, 1,580 tokens per second by OLMoE-1B-7B (13.8 GB) with 64 answers at once.
vLLM: assumed, half of the measured bandwidth."""

ASSUMPTIONS = (
    "measured on one H200 (docs/performance.md): products 780 TFLOP/s; a prompt takes 5.4 times "
    "the time of its products, scored options 18.1 times, identification and fine-tuning 14.1 "
    "times; transformers generates 64 answers at once, each step passing 341 GB of weights per "
    "second",
    "not measured, assumed: vLLM generates 256 answers at once at 1,250 GB of weights per second "
    "and GPU, and starts in 60 s; weights are loaded at 1 GB/s; a comparison takes 300 s; shards "
    "of a tensor are computed in parallel without loss, layers on several GPUs one after the other",
    "every answer is as long as it may be, which few are; left out: the memory and the reading of "
    "caches, which make long answers slower, the starting of operations, which binds small models, "
    "probes, failures, and nodes: all GPUs are one pool",
)


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a run that is finished before the next begins.

    Attributes:
        name: the step.
        pieces: the seconds of each part, which workers share; one part is done by one of them while
            the others wait.
    """

    name: str
    pieces: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one model of a matrix takes.

    Attributes:
        model: the name.
        needs: what each worker needs.
        piece_work: the work of one piece, for the planning.
        load: the seconds until a worker is ready.
        stages: the steps, in order.
    """

    model: str
    needs: Needs
    piece_work: float
    load: float
    stages: tuple[Stage, ...]

    @property
    def work(self) -> float:
        """The seconds of all steps, by one worker, without loading."""
        return sum(sum(stage.pieces) for stage in self.stages)

    @property
    def critical(self) -> tuple[tuple[str, float], ...]:
        """The steps that nothing makes shorter, and the seconds of each: the longest parts."""
        return (("load", self.load), *((one.name, max(one.pieces)) for one in self.stages))


def model_cost(
    planned: PlannedRun, found: CostEstimate, model: str, needs: Needs, limit: int | None = None
) -> ModelCost | None:
    """Return the time of each step of one model; None if its size or no task's tokens are known.

    Cells of tasks whose tokens are not known are left out.

    Args:
        planned: the plan with its arms.
        found: the estimate of the plan.
        model: the model.
        needs: what a worker of it needs.
        limit: the limit of items of a smoke test.
    """
    plan, size = planned.plan, model_size(model, planned.plan, limit)
    known = {task.task: task for task in found.tasks if task.prompt_tokens is not None}
    if size is None or not known:
        return None
    one = _Costs(plan, size, known)
    load = 0.0 if plan.engine == plan.learner else one.loading  # of the learner
    stages = (
        Stage("learn", (load + one.learning(found),)),
        Stage("fine-tune", tuple(one.training(planned.arms))),
        Stage("tune base", tuple(one.tuning_base(planned))),
        Stage("tune", tuple(one.tuning(planned.arms))),
        Stage("cells", tuple(one.cells(planned))),
        Stage("fine-tuned cells", tuple(one.fine_cells(planned.arms))),
        Stage("compare", (COMPARISON_SECONDS,)),
        Stage("stability", tuple(one.stability(planned))),
    )
    return ModelCost(
        model, needs, piece_work(plan, model), one.start, tuple(s for s in stages if s.pieces)
    )


@dataclass(frozen=True, slots=True)
class _Costs:
    """The arithmetic of one model: `tasks` are those whose tokens are known."""

    plan: Plan
    size: PlannedSize
    tasks: Mapping[str, TaskEstimate]

    @property
    def weights(self) -> float:
        """The bytes of the weights in the engine that answers."""
        return self.size.memory_gib[self.plan.engine] * 2**30

    @property
    def rates(self) -> EngineRates:
        """The rates of the engine that answers."""
        return RATES[self.plan.engine]

    @property
    def start(self) -> float:
        """The seconds until the engine that answers is ready."""
        return self.rates.start + self.loading

    @property
    def loading(self) -> float:
        """The seconds in which the weights are loaded."""
        return self.size.weights_gib * 2**30 / LOADED_A_SECOND

    def _products(self, operations: int, tokens: float, times: float) -> float:
        return operations * self.size.active_parameters * tokens * times / PRODUCTS

    def _generated(self, answers: int, longest: int) -> float:
        steps = math.ceil(answers / self.rates.rows) * longest
        return steps * self.weights / self.rates.weights_a_second / self.plan.tensor_parallel

    def _answered(self, names: Sequence[str], split: StageSplit, times: int = 1) -> Iterator[float]:
        """Yield the seconds of the answers to each task's items of a split, where it has some."""
        for name in names:
            if (task := self.tasks.get(name)) is not None:
                items = task.test if split == "test" else task.tuning
                if items:
                    yield self._task(task, items * task.samples * times)

    def _task(self, task: TaskEstimate, answers: int) -> float:
        times = PROMPT_TIMES if task.answer_tokens else SCORING_TIMES
        read = self._products(ON_FORWARD, answers * (task.prompt_tokens or 0), times)
        read /= self.plan.tensor_parallel
        if not task.answer_tokens:
            return read
        return read + self._generated(answers, max(task.answer_tokens, self.size.thinking))

    def learning(self, found: CostEstimate) -> float:
        """Return the seconds of identification."""
        operations = ON_FORWARD if self.plan.learner == "vllm" else ON_BOTH
        seconds = self._products(operations, found.identification_tokens, LEARNING_TIMES)
        seconds += self._products(ON_BOTH, found.influence_tokens, LEARNING_TIMES)
        if self.plan.identification.phase == "generated":
            longest = self.plan.identification.answer_tokens
            seconds += self._generated(found.identification_texts, longest)
        return seconds

    def training(self, arms: Sequence[PlannedArm]) -> Iterator[float]:
        """Yield the seconds of each adapter and learned profile, both on the tuning items."""
        for arm in arms:
            task = self.tasks.get(arm.tasks[0])
            if arm.variant.kind == "sft" and self.plan.sft is not None and task is not None:
                epochs = self.plan.sft.of(arm.variant).epochs
                tokens = epochs * task.tuning * (task.prompt_tokens or 0)
                yield self._products(ON_BOTH, tokens, LEARNING_TIMES)
        own = self.plan.learned
        by_domain = {one.domain: one for one in self.tasks.values() if "target" in one.roles}
        for course in courses(arms) if own is not None else ():
            if own is not None and (task := by_domain.get(course.domain)) is not None:
                # As many texts as items; at each look all items of the identification split.
                items = 2 * own.steps * min(own.batch_size, task.tuning)
                items += (own.steps // own.check_every + 1) * task.identification
                items *= len(own.weights)
                yield self._products(ON_BOTH, items * (task.prompt_tokens or 0), LEARNING_TIMES)

    def tuning_base(self, planned: PlannedRun) -> Iterator[float]:
        """Yield the seconds of base on the tuning split, if an arm is tuned."""
        if any(arm.grid for arm in planned.arms):
            yield sum(self._answered(planned.base_tasks, "tuning"))

    def tuning(self, arms: Sequence[PlannedArm]) -> Iterator[float]:
        """Yield the seconds of each tuned arm, for all its settings."""
        for arm in arms:
            if arm.grid:
                yield len(arm.grid) * sum(self._answered(arm.tasks, "tuning"))

    def cells(self, planned: PlannedRun) -> Iterator[float]:
        """Yield the seconds of each part of the test, but for arms with other weights.

        A part is a cell; in vLLM all steered arms of a task are one part.
        """
        yield from self._answered(planned.base_tasks, "test")
        together = Counter[str]()
        for arm in planned.arms:
            if arm.variant.other_weights:
                continue
            if self.plan.engine == "vllm" and arm.variant.has_profile:
                together.update(arm.tasks)
            else:
                yield from self._answered(arm.tasks, "test")
        for name in planned.base_tasks:
            if together[name]:
                yield from self._answered([name], "test", together[name])

    def fine_cells(self, arms: Sequence[PlannedArm]) -> Iterator[float]:
        """Yield the seconds of each cell of fine-tuned arms, and of those on quantized models.

        vLLM is started again for an arm; here for each cell, as if another worker had each.
        """
        again = self.start if self.plan.engine == "vllm" else 0.0
        for arm in arms:
            if arm.variant.other_weights:
                yield from (again + seconds for seconds in self._answered(arm.tasks, "test"))

    def stability(self, planned: PlannedRun) -> Iterator[float]:
        """Yield the seconds of each cell of the stage `stability`."""
        for name, times in stability_cells(planned).items():
            for seconds in self._answered([name], "test"):
                yield from [seconds] * times
