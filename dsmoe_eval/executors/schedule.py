"""Planning, without any state: what a worker of a model needs, and which model gets the next one.

`executors.ray` starts workers by these rules, and `executors.scale` simulates them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..cards import Plan
from ..errors import UserError
from ..runs.sizes import model_size

RESERVE_GIB = 12.0
"""The memory beside the weights, of each GPU, but at most a quarter of it: a run chooses batches of
at most 12 GB, or of less where less is free."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one worker of a model needs.

    Attributes:
        gpus: the number of GPUs; 0 where the cluster has none, or the device is `cpu`.
        cpus: the number of CPUs.
    """

    gpus: int
    cpus: int


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model that is not finished, as the planning sees it.

    Attributes:
        model: the name.
        needs: what one worker needs.
        workers: the number of workers that run or are being started.
        open: the pieces of the present step that are not done, those in work included; None where
            one worker does the step, or if not known yet. More workers than these would wait.
        work: the work that is left, in one unit for all models, `piece_work` times `open` or 1: the
            largest comes first.
    """

    model: str
    needs: Needs
    workers: int
    open: int | None
    work: float


def next_worker(states: Sequence[ModelState], fits: Callable[[Needs], bool]) -> str | None:
    """Return the model that gets the next worker, or None if no worker is to be started now.

    Every model gets its first worker before any gets a second, the largest work first. Then the
    model with the most work per worker gets one, of those with more open pieces than workers.
    While a model without a worker waits for room, no other gets a second one: what becomes free is
    for it.

    Args:
        states: the models that are not finished; one that no node has room for must not be
            among them, or no model would ever get a second worker.
        fits: whether there is room for one more worker of these needs now.
    """
    ranked = sorted(states, key=lambda one: (-one.work, one.model))
    if first := [one for one in ranked if one.workers == 0]:
        return next((one.model for one in first if fits(one.needs)), None)
    able = [one for one in ranked if (one.open or 0) > one.workers and fits(one.needs)]
    return max(able, key=lambda one: one.work / one.workers).model if able else None


def piece_work(plan: Plan, model: str) -> float:
    """Return the work of one piece of a model: its weights in GiB, which each token passes.

    Of a model whose size is not known here it is 1.
    """
    size = model_size(model, plan)
    return 1.0 if size is None else size.memory_gib[plan.engine]


def needs_of(plan: Plan, model: str, gpu_gib: float | None, device: str | None = None) -> Needs:
    """Return what a worker of a model needs, by the plan and the size of the model.

    The plan's `resources` say it; else vLLM has `tensor_parallel` GPUs and transformers one, or
    with the device `auto`, over which it spreads the model, as many as the weights need.

    Args:
        plan: the plan.
        model: the model; of one that has neither a card nor a folder here no size is known.
        gpu_gib: the memory of one GPU in GiB; None if the cluster has no GPUs.
        device: the torch device of the run's options, which vLLM disregards.

    Raises:
        UserError: the model does not fit into the memory of these GPUs.
    """
    given = plan.resources
    cpus = given.cpus or 1
    engines = dict.fromkeys((plan.engine, plan.learner))
    on_gpus = [one for one in engines if one == "vllm" or device != "cpu"]
    if gpu_gib is None or not on_gpus:
        return Needs(0, cpus)
    least = {one: _least_gpus(plan, model, gpu_gib, one) for one in on_gpus}
    spread = device == "auto"
    by_size = least.get("transformers", 1) if spread else 1
    gpus = given.gpus or max(plan.tensor_parallel, by_size)
    for role, number in least.items():
        usable = plan.tensor_parallel if role == "vllm" else gpus if spread else 1
        if number > usable:
            words = _too_large(plan, model, gpu_gib, role, number)
            raise UserError(f"{words}; {_way_out(role, number, spread)}")
    return Needs(gpus, cpus)


def _least_gpus(plan: Plan, model: str, gpu_gib: float, engine: str) -> int:
    size = model_size(model, plan)
    return 1 if size is None else math.ceil(size.memory_gib[engine] / (gpu_gib - _reserve(gpu_gib)))


def _reserve(gpu_gib: float) -> float:
    return min(RESERVE_GIB, gpu_gib / 4)


def _too_large(plan: Plan, model: str, gpu_gib: float, engine: str, least: int) -> str:
    size = model_size(model, plan)
    gib = 0.0 if size is None else size.memory_gib[engine]
    return (
        f"model {model!r}: its weights take {gib:.0f} GiB in {engine}; with "
        f"{_reserve(gpu_gib):.0f} GiB beside them on each, these are {least} GPUs of "
        f"{gpu_gib:.0f} GiB"
    )


def _way_out(engine: str, least: int, spread: bool) -> str:
    if engine == "vllm":
        return f"give the plan tensor_parallel: {least}"
    way = f"give resources: {{gpus: {least}}}" if spread else "give --device auto"
    return f"{way}, or the plan `engine: vllm` and `learner: vllm` with tensor_parallel"
