"""A plan on paper: how long its matrix of models takes, and from where on more GPUs do not help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..cards import Plan
from ..errors import UserError
from ..registry import builtin_names, load_model_card, load_plan
from ..runs.arms import PlannedRun, plan_run
from ..runs.estimate import CostEstimate
from .costs import ASSUMPTIONS, GPU_GIB, ModelCost, model_cost
from .schedule import needs_of
from .simulation import Simulated, enough, simulate, unlimited

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class ModelOnPaper:
    """One model of a matrix on paper.

    Attributes:
        model: the name.
        gpus: the GPUs of each worker.
        gpu_hours: the hours of all its steps, times these GPUs, without loading.
        critical: the steps and the hours of the longest part of each, which no GPU makes shorter.
    """

    model: str
    gpus: int
    gpu_hours: float
    critical: dict[str, float]

    @property
    def critical_hours(self) -> float:
        """The length of its critical path."""
        return sum(self.critical.values())


@dataclass(frozen=True, slots=True)
class Makespan:
    """A matrix on a number of GPUs, in hours.

    Attributes:
        gpus: the number of GPUs.
        hours: the makespan; None if a worker needs more GPUs.
        gpu_hours: the hours for which workers hold GPUs.
        utilisation: the share of the GPUs' time in which they do parts of the steps.
    """

    gpus: int
    hours: float | None
    gpu_hours: float | None
    utilisation: float | None


@dataclass(frozen=True, slots=True)
class ScaleEstimate:
    """A plan on paper, on several numbers of GPUs.

    Attributes:
        plan: the plan's name.
        makespans: the makespan on each number of GPUs.
        enough: the makespan where more GPUs stop helping; None if nothing is known.
        least: the makespan on unlimited GPUs.
        models: the models; the critical path of the matrix is that of the longest.
        left_out: the models that are not counted, with the reason.
        unknown_tasks: the tasks whose tokens are not known, which are not counted.
        unknown_share: their share of the answers of the test split.
        assumptions: what the times rest on.
    """

    plan: str
    makespans: tuple[Makespan, ...]
    enough: Makespan | None
    least: Makespan | None
    models: tuple[ModelOnPaper, ...]
    left_out: dict[str, str]
    unknown_tasks: tuple[str, ...]
    unknown_share: float
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def critical(self) -> ModelOnPaper | None:
        """The model whose critical path is the longest."""
        return max(self.models, key=lambda one: one.critical_hours, default=None)

    def to_dict(self) -> dict[str, object]:
        """Return the figures for JSON, with the model of the critical path by name."""
        longest = self.critical
        hours = None if longest is None else longest.critical_hours
        path = {"model": longest and longest.model, "hours": hours}
        return asdict(self) | {"critical_path": path}


def on_paper(
    plan_name: str,
    found: CostEstimate,
    gpus: Sequence[int],
    device: str | None = None,
    limit: int | None = None,
) -> ScaleEstimate:
    """Return what the matrix of a plan takes on several numbers of GPUs, simulated.

    Args:
        plan_name: the plan, of which `found` is the estimate with the same limit of items.
        found: the estimate.
        gpus: the numbers of GPUs.
        device: the torch device of the run; `auto` spreads a model over as many as it needs.
        limit: the limit of items per task and part.
    """
    plan, path = load_plan(plan_name)
    planned = plan_run(plan, path)
    costs: list[ModelCost] = []
    left_out: dict[str, str] = {}
    unknown = [task for task in found.tasks if task.prompt_tokens is None]
    for one in found.models if len(unknown) < len(found.tasks) else ():
        try:
            costs.append(_cost(plan, planned, found, one.model, device, limit))
        except UserError as error:
            left_out[one.model] = str(error)
    asked = Counter([*planned.base_tasks, *(name for arm in planned.arms for name in arm.tasks)])
    lost = sum(asked[task.task] * task.test * task.samples for task in unknown)
    return ScaleEstimate(
        plan=found.plan,
        makespans=tuple(_makespan(costs, number) for number in gpus) if costs else (),
        enough=_hours(enough(costs)) if costs else None,
        least=_hours(simulate(costs, unlimited(costs))) if costs else None,
        models=tuple(map(_of_model, costs)),
        left_out=left_out,
        unknown_tasks=tuple(task.task for task in unknown),
        unknown_share=lost / found.answers,
    )


def _cost(
    plan: Plan,
    planned: PlannedRun,
    found: CostEstimate,
    model: str,
    device: str | None,
    limit: int | None,
) -> ModelCost:
    """Return what a model takes.

    Raises:
        UserError: it cannot be counted.
    """
    card = load_model_card(model) if model in builtin_names("models") else None
    if card is not None and not card.transformers and "transformers" in {plan.engine, plan.learner}:
        raise UserError(f"model {model!r}: transformers has no code for it")
    needs = needs_of(plan, model, GPU_GIB, device)
    cost = model_cost(planned, found, model, needs, limit)
    if cost is None:
        raise UserError(f"model {model!r}: it has no card and no folder here, so no known size")
    return cost


def _makespan(costs: Sequence[ModelCost], gpus: int) -> Makespan:
    if any(one.needs.gpus > gpus for one in costs):
        return Makespan(gpus, None, None, None)
    return _hours(simulate(costs, gpus))


def _hours(one: Simulated) -> Makespan:
    return Makespan(one.gpus, one.makespan / HOUR, one.held / HOUR, one.utilisation)


def _of_model(cost: ModelCost) -> ModelOnPaper:
    critical = {name: seconds / HOUR for name, seconds in cost.critical}
    return ModelOnPaper(cost.model, cost.needs.gpus, cost.needs.gpus * cost.work / HOUR, critical)
