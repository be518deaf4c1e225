"""A run in memory: its plan is checked against model and data, and everything is loaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..cards import Plan, Suite
from ..engines.base import Engine
from ..engines.lm import EngineLM
from ..errors import UserError
from ..files import LOCK, lock_folder
from ..models.places import locate
from ..models.prompt_format import PromptFormat, prompt_format
from ..registry import load_plan
from ..results.folder import RunFolder, open_folder
from ..tasks.identification import IdentificationText, suite_text
from ..tasks.leakage import Leakage, check_leakage
from ..tasks.loading import (
    LoadedTask,
    check_context_length,
    check_preamble,
    in_format,
    most_tokens,
)
from ..tasks.outcomes import check_outcome
from ..tasks.splits import load_splits
from ..variants import own_file
from .arms import PlannedRun, plan_run
from .leases import ALONE, Leases
from .options import AS_PLANNED, RunOptions
from .plan_checks import check_engine
from .roles import Roles, open_roles

_PACKAGES = ("dsmoe-eval", "torch", "transformers", "lm-eval", "peft", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(PlannedRun):
    """A planned run with everything loaded that its stages need; it does not change.

    Attributes:
        roles: the engine that answers, and the learner.
        lm: the model as the language model that answers tasks.
        identification: the text from which experts are identified.
        tuning: the tasks of this part, by name; `test` likewise.
        folder: the run's folder.
        identity: the identity of the run, for `comparisons.json`.
        leakage: the items that the parts share.
        leases: the way in which this process shares the run with others.
        close: the function that frees the engines, and unlocks the folder for other processes.
    """

    roles: Roles
    lm: EngineLM
    identification: IdentificationText
    tuning: Mapping[str, LoadedTask]
    test: Mapping[str, LoadedTask]
    folder: RunFolder
    identity: dict[str, Any]
    leakage: Leakage
    leases: Leases
    close: Callable[[], None]

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        return self.roles.engine

    @property
    def learner(self) -> Engine:
        """The engine that learns; see `Roles.learner`."""
        return self.roles.learner


def prepare(
    plan_name: str, out: Path, options: RunOptions = AS_PLANNED, leases: Leases = ALONE
) -> Job:
    """Check the plan, load model and tasks, and open the run's folder.

    Args:
        plan_name: a built-in plan's name or the path of a YAML file.
        out: the run's folder.
        options: the settings beside the plan.
        leases: the way in which this process shares the run with others.

    Raises:
        UserError: something in the plan cannot be met, or another process works in the folder; then
            nothing has been written.
    """
    _check_unlocked(out, leases)
    planned, path = _checked(plan_name, options)
    plan, limit = planned.plan, options.limit
    splits, text, leakage = _read_items(planned, options)
    roles = open_roles(plan, options.device, out, _needs_eager(planned))
    with ExitStack() as opened:
        opened.callback(roles.close)
        engine = roles.engine
        used = engine.generation.used(plan.decoding)
        lm = engine.language_model(_format(plan, path, engine, limit), plan.seed, used)
        tuning, test = (
            {name: in_format(task, lm) for name, task in splits[part].items()}
            for part in ("tuning", "test")
        )
        check = partial(_check_lengths, planned, tuning, test, lm)
        check()
        identity = _run_identity(planned.suite, engine, limit)
        fixed = identity | _decoding(engine, used) | _planned(planned, path)
        if leases.writer is None:
            opened.callback(lock_folder(out))
        with leases.turn("folder"):
            folder = open_folder(out, path.read_text(encoding="utf-8"), fixed, leases.writer)
        roles.continue_in(folder, lm, check)
        close = opened.pop_all().close
    return Job(
        **{field.name: getattr(planned, field.name) for field in fields(planned)},
        roles=roles,
        lm=lm,
        identification=text,
        tuning=tuning,
        test=test,
        folder=folder,
        identity=identity,
        leakage=leakage,
        leases=leases,
        close=close,
    )


def _check_unlocked(out: Path, leases: Leases) -> None:
    """Refuse a folder in which another process works, before the model is loaded."""
    if leases.writer is None and (out / LOCK).exists():
        lock_folder(out)()


def _needs_eager(planned: PlannedRun) -> bool:
    """Return whether an arm needs vLLM to run eagerly."""
    return any(arm.variant.kind == "residual" for arm in planned.arms)


Splits = Mapping[str, Mapping[str, LoadedTask]]
"""Part -> task name -> its items in that part."""


def _read_items(
    planned: PlannedRun, options: RunOptions
) -> tuple[Splits, IdentificationText, Leakage]:
    """Return the tasks of each part of a run, the identification text, and what the parts share."""
    plan, suite = planned.plan, planned.suite
    splits = load_splits(
        suite,
        options.limit,
        options.data,
        planned.read_targets,
        answered_text=planned.reads_answers,
    )
    check_outcome([*splits["test"].values()], plan.outcome)
    text = suite_text(suite, splits["identification"], options.limit)
    checked = check_leakage(splits | {"identification": text.tasks}, plan.allow_leakage)
    return splits, text, checked


def _checked(plan_name: str, options: RunOptions) -> tuple[PlannedRun, Path]:
    """Return the run of a plan, checked without loading anything, and the plan's file."""
    plan, path = load_plan(plan_name)
    model = options.model or plan.named_model or _only(plan)
    planned = plan_run(plan.of(model, options.seed), path)
    check_engine(planned.plan)
    locate(model)
    return planned, path


def _check_lengths(
    planned: PlannedRun,
    tuning: Mapping[str, LoadedTask],
    test: Mapping[str, LoadedTask],
    lm: EngineLM,
) -> None:
    """Check that all prompts fit, also those after a line that names a domain."""
    lines = {(name, arm.preamble) for arm in planned.arms if arm.preamble for name in arm.tasks}
    for task in (*tuning.values(), *test.values()):
        check_context_length(task, lm)
    for name, line in sorted(lines):
        check_preamble(test[name], line, lm)


def _planned(planned: PlannedRun, path: Path) -> dict[str, object]:
    """Return the plan and the variants from the user's files: a run continues only with both."""
    own = [
        variant.model_dump(mode="json")
        for name, variant in zip(planned.plan.variants, planned.variants, strict=False)
        if own_file(name, path) is not None
    ]
    plan: dict[str, object] = {"plan": planned.plan.model_dump(mode="json")}
    return plan | ({"own_variants": own} if own else {})


def _format(plan: Plan, path: Path, engine: Engine, limit: int | None) -> PromptFormat:
    """Return the plan's format; a smoke test limits thinking to the length of any other answer."""
    wanted = prompt_format(plan.model, engine.tokenizer, plan.prompt, plan.think_end_token, path)
    if limit is None or wanted.answer_tokens is None:
        return wanted
    return replace(wanted, answer_tokens=most_tokens(limit))


def _run_identity(suite: Suite, engine: Engine, limit: int | None) -> dict[str, Any]:
    return {
        "model": engine.identity.name,
        "fingerprint": engine.identity.fingerprint,
        "engine": engine.name,
        "engine_settings": dict(engine.settings),
        "dtype": engine.dtype,
        "device": engine.device,
        "experts_implementation": engine.experts_implementation,
        "parameters": engine.parameters,
        "suite": suite.name,
        "limit": limit,
        "versions": {name: _version(name) for name in _PACKAGES} | {**engine.versions},
    }


def _decoding(engine: Engine, used: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that the checkpoint adds to decoding, and the number of threads."""
    ends = list(engine.generation.ends)
    return {"ends": ends, "generation_config": dict(used), "threads": torch.get_num_threads()}


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
