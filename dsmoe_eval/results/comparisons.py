"""The comparison of every arm with base, item by item: the figures that the report renders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from ..cards import Plan, Suite, Task
from ..stats import (
    NonInferiority,
    PairedResult,
    compare_paired,
    compare_with_draws,
    non_inferiority,
    score_interval,
)
from ..tasks.items import digest
from ..tasks.leakage import Leakage as FoundLeakage
from . import floors
from .acted import OUTPUTS, Acted, acted_of, output_change
from .arms import Arm, Probe, Settings
from .cells import answer_rates, read_cell, read_samples
from .claims import Adjusted, Contrasts, adjust
from .folder import RunFolder
from .other_arms import OTHERS, ArmCells, other_arms
from .paired import Answers, Domain, Paired, Pooled, Rates
from .paired import NonInferiority as StoredNonInferiority
from .pairing import columns_of, compare_answers, pair_items
from .schema import (
    SCHEMA_VERSION,
    Base,
    EngineRouting,
    Leakage,
    Model,
    Noise,
    QuantizedRouting,
    RunResult,
)
from .terms import Line, Pruning
from .training import Learning, Training

COMPARED = ("item", "cluster", "score", "tokens", "truncated", "invalid")
"""The columns of a cell's rows that comparisons need; its texts stay on disk."""
Reader = Callable[[str], pd.DataFrame]
"""A function: cell id -> the cell's rows."""

_SETTINGS: TypeAdapter[Settings | Training | Learning | Pruning | Line | None] = TypeAdapter(
    Settings | Training | Learning | Pruning | Line | None
)


def compare_arms(
    folder: RunFolder,
    plan: Plan,
    suite: Suite,
    base: Mapping[str, str],
    arms: Sequence[ArmCells],
    identity: Mapping[str, object],
    leakage: FoundLeakage,
) -> RunResult:
    """Return the content of `comparisons.json`; the families of its claims are `FAMILIES`.

    Args:
        folder: the run's folder, with its cells.
        plan: the plan of the run.
        suite: the suite of the plan.
        base: task name -> the id of the cell in which base answered it.
        arms: all arms, each with its cells.
        identity: the model and engine that answered; the fields of `schema.Model`.
        leakage: the items that the splits share.
    """
    read = cache(partial(read_samples, folder, columns=COMPARED))  # many arms share base's cells
    paired = [_pair_arm(read, base, arm) for arm in arms]
    contrasts = [
        _contrasts(read, plan, suite, arm, own, arms) for arm, own in zip(arms, paired, strict=True)
    ]
    models = [next(iter(other_arms("over_quantized", arm, arms)), None) for arm in arms]
    return RunResult(
        schema_version=SCHEMA_VERSION,
        plan=plan.name,
        seed=plan.seed,
        significance_level=plan.significance_level,
        margin=plan.margin,
        variants=tuple(dict.fromkeys(arm.variant.name for arm in arms)),
        targets=tuple(dict.fromkeys(arm.target for arm in arms)),
        suite_targets=tuple(suite.targets),
        suite_tasks=tuple(task.name for task in suite.tasks),
        run=Model.model_validate(dict(identity), strict=False),
        leakage=Leakage.model_validate(leakage.to_dict(), strict=False),
        routing=_routing(folder),
        quantized=_quantized(folder),
        base=tuple(_base_row(folder, read, suite, *cell) for cell in base.items()),
        arms=tuple(
            _arm_row(folder, suite, base, *row)
            for row in zip(models, arms, contrasts, adjust(contrasts), paired, strict=True)
        ),
    )


def _routing(folder: RunFolder) -> EngineRouting | None:
    """Return how far the engines of a run agree, as it measured before it answered."""
    if not folder.has(folder.engine_routing):
        return None
    return EngineRouting.model_validate(folder.read_json(folder.engine_routing), strict=False)


def _quantized(folder: RunFolder) -> tuple[QuantizedRouting, ...]:
    """Return how far the quantized models of a run agree with base."""
    if not folder.has(folder.quantized_routing):
        return ()
    read = partial(QuantizedRouting.model_validate, strict=False)
    return tuple(map(read, folder.read_json(folder.quantized_routing)))


_VERSION = ("task_version", "metric", "filter", "few_shot", "split", "items", "decoding")
"""The fields of a cell's identity that must be equal for scores of a task to be comparable."""


def _base_row(folder: RunFolder, read: Reader, suite: Suite, name: str, cell_id: str) -> Base:
    cell, rows, task = read_cell(folder, cell_id), read(cell_id), suite.task(name)
    low, high = score_interval(rows["score"].to_numpy(), rows["cluster"].to_numpy())
    asked = read_samples(folder, cell_id, columns=floors.COLUMNS)
    noise = cell.get("noise")
    return Base(
        task=name,
        cell=cell_id,
        domain=task.domain,
        role="target" if "target" in task.roles else "non-target",
        n=len(rows),
        score=float(rows["score"].mean()),
        ci95=None if math.isnan(low) else (low, high),
        version=digest(*(cell["identity"][key] for key in _VERSION)),
        answers=_rates(rows),
        chance=floors.chance(asked),
        constant=floors.constant(asked, str(cell["identity"]["metric"])),
        noise=None if noise is None else Noise.model_validate(noise),
    )


def _rates(rows: pd.DataFrame) -> Rates | None:
    """Return the rates of a cell's generated answers; None where nothing was generated."""
    rates = answer_rates(rows)
    if rates is None:
        return None
    return Rates.model_validate(rates | {"samples": int(rows["tokens"].str.len().max())})


def _pair_arm(read: Reader, base: Mapping[str, str], arm: ArmCells) -> dict[str, pd.DataFrame]:
    return {
        name: pair_items(read(base[name]), read(cell), name) for name, cell in arm.cells.items()
    }


def _contrasts(
    read: Reader,
    plan: Plan,
    suite: Suite,
    arm: ArmCells,
    paired: dict[str, pd.DataFrame],
    arms: Sequence[ArmCells],
) -> Contrasts:
    others = [paired[task.name] for task in suite.non_target_tasks(arm.target)]
    pooled = pd.concat(others)

    return Contrasts(
        variant=arm.variant,
        target=_compare(paired[suite.target_task(arm.target).name]),
        pooled=_compare(pooled),
        pooled_held=_held(pooled, plan),
        domains=tuple(_compare(part) for part in others),
        held=tuple(_held(part, plan) for part in others),
        over={
            name: _over_controls(read, suite, arm, other_arms(name, arm, arms)) for name in OTHERS
        },
    )


def _over_controls(
    read: Reader, suite: Suite, arm: ArmCells, controls: Sequence[ArmCells]
) -> PairedResult | None:
    """Compare an arm with the mean of its controls on the target; None where there is none."""
    if not controls:
        return None
    name = suite.target_task(arm.target).name
    after = read(arm.cells[name])
    # Base's score cancels: the gain over base less that of the control.
    pairs = [columns_of(pair_items(read(one.cells[name]), after, name)) for one in controls]
    _, scores, clusters = pairs[0]
    return compare_with_draws(np.stack([a for a, _, _ in pairs]), scores, clusters)


def _compare(paired: pd.DataFrame) -> PairedResult:
    return compare_paired(*columns_of(paired))


def _held(paired: pd.DataFrame, plan: Plan) -> NonInferiority:
    a, b, clusters = columns_of(paired)
    return non_inferiority(a, b, plan.margin, plan.significance_level / 2, clusters)


def _arm_row(
    folder: RunFolder,
    suite: Suite,
    base: Mapping[str, str],
    model: ArmCells | None,
    arm: ArmCells,
    contrasts: Contrasts,
    adjusted: Adjusted,
    paired: Mapping[str, pd.DataFrame],
) -> Arm:
    target = suite.target_task(arm.target).name
    cell = read_cell(folder, arm.cells[target])
    over = {name: _over_row(one, adjusted.over[name]) for name, one in contrasts.over.items()}
    return Arm.model_validate(
        {
            "variant": arm.variant.name,
            "target": arm.target,
            "settings": _SETTINGS.validate_python(arm.settings, strict=False),
            "profile": arm.profile,
            "probe": _probe_row(cell["probe"]),
            "cells": dict(arm.cells),
            "target_result": _paired(
                contrasts.target, adjusted.target, compare_answers(paired[target])
            ),
            "non_targets": Pooled.model_validate(
                _tested(contrasts.pooled, adjusted.pooled)
                | {"non_inferiority": _non_inferiority(contrasts.pooled_held)}
            ),
            "domains": _domains(suite.non_target_tasks(arm.target), contrasts, adjusted, paired),
            "information": arm.information,
            "prompt_tokens": (
                read_cell(folder, base[target])["prompt_tokens"],
                cell["prompt_tokens"],
            ),
            "acted": _acted(
                folder, arm, (model.cells if model else base)[target], arm.cells[target]
            ),
        }
        | over
    )


def _domains(
    tasks: Sequence[Task],
    contrasts: Contrasts,
    adjusted: Adjusted,
    paired: Mapping[str, pd.DataFrame],
) -> tuple[Domain, ...]:
    return tuple(
        Domain.model_validate(
            dict(_paired(result, p_adjusted, compare_answers(paired[task.name])))
            | {"domain": task.domain, "task": task.name}
            | {"non_inferiority": _non_inferiority(held)}
        )
        for task, result, held, p_adjusted in zip(
            tasks, contrasts.domains, contrasts.held, adjusted.domains, strict=True
        )
    )


def _probe_row(probe: object) -> Probe | None:
    return None if probe is None else Probe.model_validate(probe)


def _acted(folder: RunFolder, arm: ArmCells, base: str, own: str) -> Acted | None:
    """Return the proof that an arm acted; None at strength zero, and of cells without it."""
    evidence = read_cell(folder, own).get("acted")
    if evidence is None:
        return None
    answers = (read_samples(folder, cell, columns=OUTPUTS) for cell in (base, own))
    return acted_of(arm.variant, evidence, output_change(*answers))


def _over_row(result: PairedResult | None, p_adjusted: float | None) -> Paired | None:
    return None if result is None else _paired(result, p_adjusted, None)


def _paired(result: PairedResult, p_adjusted: float | None, answers: Answers | None) -> Paired:
    counts = {name: getattr(result, name) for name in ("n", "score_a", "score_b", "gained", "lost")}
    return Paired.model_validate(_tested(result, p_adjusted) | counts | {"answers": answers})


def _tested(result: PairedResult, p_adjusted: float | None) -> dict[str, object]:
    """Return the figures of a test, without NaN.

    An unknown interval, as with one cluster, is (-1, 1), the bounds of any difference.
    """
    return {
        "ci95": result.known_ci95 or (-1.0, 1.0),
        "p_value": result.p_value,
        "test": result.test,
        "mde80": result.known_mde80,
        "clusters": result.clusters,
        "p_adjusted": p_adjusted,
    }


def _non_inferiority(held: NonInferiority) -> StoredNonInferiority:
    bound = -1.0 if math.isnan(held.lower_bound) else held.lower_bound
    return StoredNonInferiority(lower_bound=bound, p_value=held.p_value)
