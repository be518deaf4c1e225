"""A run in memory: the plan checked against what there is, and everything loaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cards import Plan, Suite, Variant
from ..engines.base import Serving
from ..engines.lm import EngineLM
from ..engines.load import load_serving
from ..errors import UserError
from ..models.loading import locate
from ..models.prompt_format import PromptFormat, prompt_format
from ..registry import load_plan, load_suite
from ..results.cells import Identity
from ..results.folder import RunFolder, open_folder
from ..tasks.leakage import Leakage, check_leakage
from ..tasks.loading import LoadedTask, check_room, in_format, most_tokens
from ..tasks.splits import load_splits
from ..variants import BASE, Settings, get_variant
from .plan_checks import check_engine, check_plan

_PACKAGES = ("dsmoe-eval", "torch", "transformers", "lm-eval", "peft", "numpy")


@dataclass(frozen=True, slots=True)
class Job:
    """All that the stages of a run need; nothing here changes while it runs."""

    plan: Plan
    suite: Suite
    targets: tuple[str, ...]
    variants: tuple[Variant, ...]
    serving: Serving
    lm: EngineLM
    identification: Mapping[str, LoadedTask]
    tuning: Mapping[str, LoadedTask]
    test: Mapping[str, LoadedTask]
    folder: RunFolder
    identity: dict[str, Any]
    leakage: Leakage

    @property
    def arms(self) -> tuple[tuple[Variant, str], ...]:
        """Every (variant, target) that is compared with base, in the order of the plan."""
        compared = [variant for variant in self.variants if variant.kind != BASE]
        return tuple((variant, target) for target in self.targets for variant in compared)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods by which the arms' experts are found."""
        return tuple(dict.fromkeys(v.method for v in self.variants if v.method is not None))

    def arm_tasks(self, target: str) -> list[str]:
        """Names of the tasks that an arm steered for `target` answers."""
        return [task.name for task in self.suite.tasks_for(target)]

    def base_tasks(self) -> list[str]:
        """Names of the tasks that some arm answers."""
        needed = {name for target in self.targets for name in self.arm_tasks(target)}
        return [task.name for task in self.suite.tasks if task.name in needed]

    def wrong_domain(self, target: str) -> str:
        """The next target of the suite: whose experts a wrong-domain control takes."""
        targets = self.suite.targets
        return targets[(targets.index(target) + 1) % len(targets)]

    def grid(self, variant: Variant) -> list[Settings]:
        """The settings that tuning tries for an arm."""
        if self.plan.tuning is None or variant.intervention is None:
            raise ValueError(f"variant {variant.name!r} is not tuned")
        strengths = self.plan.tuning.strengths[variant.intervention]
        return [Settings(size, s) for size in self.plan.tuning.experts for s in strengths]

    def cell_identity(
        self,
        task: str,
        variant: Variant,
        target: str | None,
        profile: str | None,
        adapter: str | None,
    ) -> Identity:
        """The identity of one cell."""
        test = self.test[task]
        return Identity(
            model=self.serving.identity.name,
            fingerprint=self.serving.identity.fingerprint,
            variant=variant.name,
            target=target,
            profile=profile,
            adapter=adapter,
            dtype=self.serving.dtype,
            device=self.serving.device,
            experts_implementation=self.serving.experts_implementation,
            engine=self.serving.name,
            engine_settings=tuple(sorted(self.serving.settings.items())),
            versions=tuple(sorted(self.identity["versions"].items())),
            batch_tokens=self.plan.batch_tokens,
            prompt_format=self.lm.format.name,
            decoding=test.card.decoding,
            task=task,
            task_version=test.version,
            few_shot=test.few_shot,
            answer_tokens=test.answer_tokens,
            filter=test.card.filter,
            metric=test.card.metric,
            split=str(self.suite.part(test.card, "test")),
            items=test.items_hash,
            seed=self.plan.seed,
        )


def prepare(
    plan_name: str,
    out: Path,
    limit: int | None,
    device: str | None,
    model: str | None = None,
    seed: int | None = None,
    data: Sequence[Path] = (),
) -> Job:
    """Check the plan, load model and tasks, and open the run's folder.

    Args:
        plan_name: a built-in plan's name or the path of a YAML file.
        out: the run's folder.
        limit: at most so many items of each task and part.
        device: a torch device.
        model: instead of the plan's, or which one where it has several.
        seed: instead of the plan's.
        data: folders that hold the data sets; none: they come from the hub.

    Raises:
        UserError: anything in the plan that cannot be met; nothing has been written then.
    """
    plan, path = load_plan(plan_name)
    plan = plan.of(model or plan.model or _only(plan), seed)
    suite = load_suite(plan.suite, beside=path)
    variants = tuple(get_variant(name) for name in plan.variants)
    targets = plan.targets or suite.targets
    check_plan(plan, suite, variants, targets)
    check_engine(plan)
    locate(plan.model)
    splits = load_splits(suite, limit, data)
    leakage = check_leakage(splits, plan.overlap)
    serving = _serve(plan, device)
    try:
        wanted = prompt_format(plan.model, serving.tokenizer, plan.prompt)
        lm = serving.language_model(_rehearsed(wanted, limit), plan.seed)
        tuning, test = (
            {name: in_format(task, lm) for name, task in splits[part].items()}
            for part in ("tuning", "test")
        )
        for task in (*tuning.values(), *test.values()):
            check_room(task, lm)
        identity = _run_identity(suite, serving, limit)
        plan_text = path.read_text(encoding="utf-8")
        folder = open_folder(out, plan_text, identity | {"plan": plan.model_dump(mode="json")})
    except BaseException:
        serving.close()
        raise
    return Job(
        plan=plan,
        suite=suite,
        targets=targets,
        variants=variants,
        serving=serving,
        lm=lm,
        identification=splits["identification"],
        tuning=tuning,
        test=test,
        folder=folder,
        identity=identity,
        leakage=leakage,
    )


def _rehearsed(wanted: PromptFormat, limit: int | None) -> PromptFormat:
    """With no more room for thinking than a rehearsal gives any answer."""
    if limit is None or wanted.answer_tokens is None:
        return wanted
    return replace(wanted, answer_tokens=most_tokens(limit))


def _serve(plan: Plan, device: str | None) -> Serving:
    if plan.engine == "transformers":
        return load_serving(plan.model, device=device, batch_tokens=plan.batch_tokens)
    return load_serving(
        plan.model,
        plan.engine,
        device,
        batch_tokens=plan.batch_tokens,
        tensor_parallel_size=plan.tensor_parallel,
        enable_expert_parallel=plan.expert_parallel,
    )


def _run_identity(suite: Suite, serving: Serving, limit: int | None) -> dict[str, Any]:
    return {
        "model": serving.identity.name,
        "fingerprint": serving.identity.fingerprint,
        "engine": serving.name,
        "engine_settings": dict(serving.settings),
        "dtype": serving.dtype,
        "device": serving.device,
        "experts_implementation": serving.experts_implementation,
        "parameters": serving.parameters,
        "suite": suite.name,
        "limit": limit,
        "versions": {name: _version(name) for name in _PACKAGES} | {**serving.versions},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _only(plan: Plan) -> str:
    if len(plan.models) > 1:
        raise UserError(
            f"plan {plan.name!r} has several models; name one: {', '.join(plan.models)}"
        )
    return plan.models[0]
