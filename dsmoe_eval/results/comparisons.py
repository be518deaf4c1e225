"""Every arm against base, item by item: the figures that the report, and nobody else, renders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..cards import Plan, Suite, Task, Variant
from ..errors import UserError
from ..stats import (
    NonInferiority,
    PairedResult,
    compare_paired,
    gain_over_control,
    non_inferiority,
    score_interval,
)
from ..tasks.items import digest
from ..variants import control_for
from .cells import answer_rates, read_cell, read_samples
from .claims import FAMILIES, Claims, Contrasts, claims_of, figures_of
from .folder import RunFolder

SCHEMA_VERSION = 4
"""Of `comparisons.json`."""
COMPARED = ("item", "cluster", "score", "tokens", "truncated", "invalid")
"""The columns of a cell's rows that comparisons need; its texts stay on disk."""
Reader = Callable[[str], pd.DataFrame]
"""Cell id -> its rows."""


@dataclass(frozen=True, slots=True)
class ArmCells:
    """An arm and the cells that answered for it; task name -> cell id."""

    variant: Variant
    target: str
    settings: dict[str, Any] | None
    profile: str | None
    cells: dict[str, str]


def compare_arms(
    folder: RunFolder,
    plan: Plan,
    suite: Suite,
    base: dict[str, str],
    arms: Sequence[ArmCells],
    identity: dict[str, Any],
) -> dict[str, Any]:
    """The content of `comparisons.json`; the families of its claims are `FAMILIES`."""
    read = cache(partial(read_samples, folder, columns=COMPARED))  # many arms share base's cells
    paired = [_pair_arm(read, base, arm) for arm in arms]
    contrasts = [
        _contrasts(read, plan, suite, arm, own, arms) for arm, own in zip(arms, paired, strict=True)
    ]
    claimed = claims_of(contrasts, plan)
    claims = sum(not arm.variant.null for arm in arms)
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": plan.name,
        "suite": suite.name,
        "suite_targets": list(suite.targets),
        "suite_tasks": [task.name for task in suite.tasks],
        "variants": list(dict.fromkeys(arm.variant.name for arm in arms)),
        "targets": list(dict.fromkeys(arm.target for arm in arms)),
        "rehearsal": identity["limit"] is not None,
        "alpha": plan.alpha,
        "margin": plan.margin,
        "seed": plan.seed,
        "family": f"{claims} target claims, Holm",
        "families": FAMILIES,
        "run": identity,
        "base": [_base_row(folder, read, suite, *cell) for cell in base.items()],
        "arms": [
            _arm_row(folder, plan, suite, *row)
            for row in zip(arms, contrasts, claimed, paired, strict=True)
        ],
    }


_VERSION = ("task_version", "metric", "filter", "few_shot", "split", "items", "decoding")
"""Of a cell's identity: what has to be the same for scores of a task to be of the same thing."""


def _base_row(
    folder: RunFolder, read: Reader, suite: Suite, name: str, cell_id: str
) -> dict[str, Any]:
    cell, rows, task = read_cell(folder, cell_id), read(cell_id), suite.task(name)
    low, high = score_interval(rows["score"].to_numpy(), rows["cluster"].to_numpy())
    return {
        "task": name,
        "cell": cell_id,
        "domain": task.domain,
        "role": "target" if "target" in task.roles else "non-target",
        "n": cell["items"],
        "score": cell["score"],
        "ci95": None if math.isnan(low) else [low, high],
        "version": digest(*(cell["identity"][key] for key in _VERSION)),
        "answers": cell["answers"],
    }


def _pair_arm(read: Reader, base: dict[str, str], arm: ArmCells) -> dict[str, pd.DataFrame]:
    return {name: pair(read(base[name]), read(cell), name) for name, cell in arm.cells.items()}


def _contrasts(
    read: Reader,
    plan: Plan,
    suite: Suite,
    arm: ArmCells,
    paired: dict[str, pd.DataFrame],
    arms: Sequence[ArmCells],
) -> Contrasts:
    others = [paired[task.name] for task in suite.non_target_tasks(arm.target)]
    return Contrasts(
        variant=arm.variant,
        target=_compare(paired[suite.target_task(arm.target).name], plan),
        pooled=_compare(pd.concat(others), plan),
        domains=tuple(_compare(part, plan) for part in others),
        held=tuple(_held(part, plan) for part in others),
        placebo=_over_control(read, plan, suite, arm, _control(arm, "matched", arms)),
        wrong=_over_control(read, plan, suite, arm, _control(arm, "wrong", arms)),
    )


def _control(
    arm: ArmCells, experts: Literal["matched", "wrong"], arms: Sequence[ArmCells]
) -> ArmCells | None:
    own = {other.variant.name: other for other in arms if other.target == arm.target}
    found = control_for(arm.variant, experts, [other.variant for other in own.values()])
    return None if found is None else own[found.name]


def _over_control(
    read: Reader, plan: Plan, suite: Suite, arm: ArmCells, control: ArmCells | None
) -> PairedResult | None:
    if control is None:
        return None
    name = suite.target_task(arm.target).name
    before, after = (read(one.cells[name]) for one in (control, arm))
    return gain_over_control(*_columns(pair(before, after, name)), plan.seed)


def _compare(paired: pd.DataFrame, plan: Plan) -> PairedResult:
    return compare_paired(*_columns(paired), plan.seed)


def _held(paired: pd.DataFrame, plan: Plan) -> NonInferiority:
    a, b, clusters = _columns(paired)
    return non_inferiority(a, b, plan.margin, plan.alpha / 2, clusters, plan.seed)


def _arm_row(
    folder: RunFolder,
    plan: Plan,
    suite: Suite,
    arm: ArmCells,
    found: Contrasts,
    claims: Claims,
    paired: dict[str, pd.DataFrame],
) -> dict[str, Any]:
    target, others = suite.target_task(arm.target), suite.non_target_tasks(arm.target)
    own, parts = paired[target.name], {task.name: paired[task.name] for task in others}
    pooled = pd.concat(list(parts.values()))
    return {
        "variant": arm.variant.name,
        "target": arm.target,
        "control_of": arm.variant.control_of,
        "settings": arm.settings,
        "profile": arm.profile,
        "probe": read_cell(folder, arm.cells[target.name])["probe"],
        "cells": arm.cells,
        "equal_to_base": all(bool((p.score_a == p.score_b).all()) for p in paired.values()),
        "target_result": _result(found.target, own) | claims.target,
        "non_target_result": _result(found.pooled, pooled)
        | {"non_inferiority": _clean(_held(pooled, plan))}
        | claims.pooled,
        "domains": [
            {"domain": task.domain, "task": task.name}
            | _result(result, paired[task.name])
            | {"non_inferiority": _clean(held)}
            | said
            for task, result, held, said in zip(
                others, found.domains, found.held, claims.domains, strict=True
            )
        ],
        "generalization": figures_of(found, own, _by_domain(others, parts), plan.alpha)
        | {
            "over_placebo": _over(found.placebo, claims.placebo),
            "specificity": _over(found.wrong, claims.wrong),
        },
    }


def _by_domain(tasks: Sequence[Task], parts: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """By domain, or by task where a domain has several."""
    domains = [task.domain for task in tasks]
    unique = len(set(domains)) == len(domains)
    return {task.domain if unique else task.name: parts[task.name] for task in tasks}


def _over(result: PairedResult | None, claims: dict[str, Any]) -> dict[str, Any] | None:
    return None if result is None else _clean(result) | claims


def pair(base: pd.DataFrame, other: pd.DataFrame, task: str) -> pd.DataFrame:
    """Base and another variant on the same items, by content; columns score_a, score_b, answers.

    Raises:
        UserError: an item stands on one side only, which within one run must not happen.
    """
    merged = base.merge(
        other, on="item", how="outer", suffixes=("_a", "_b"), validate="one_to_one", indicator=True
    )
    alone = int((merged["_merge"] != "both").sum())
    if alone:
        raise UserError(f"task {task!r}: {alone} item(s) were answered by one variant only")
    return merged


def compare_answers(paired: pd.DataFrame) -> dict[str, Any] | None:
    """What generated answers took and how many were none, for base (a) and the other (b).

    Returns:
        None where nothing was generated. Else `a` and `b`, each with mean_tokens, truncated and
        invalid (shares of answers); and `both_whole`: n and delta of the items that both answered
        with no answer truncated or invalid. A gain that is not there among those is one of format
        or length.
    """
    generated = paired[paired["tokens_a"].str.len() > 0]
    if generated.empty:
        return None
    sides = {side: answer_rates(generated, f"_{side}") for side in ("a", "b")}
    whole = generated[_is_whole(generated, "a") & _is_whole(generated, "b")]
    delta = float((whole["score_b"] - whole["score_a"]).mean()) if len(whole) else None
    return {**sides, "n": len(generated), "both_whole": {"n": len(whole), "delta": delta}}


def _is_whole(generated: pd.DataFrame, side: str) -> pd.Series[bool]:
    return ~(generated[f"truncated_{side}"].map(np.any) | generated[f"invalid_{side}"].map(np.any))


def _result(result: PairedResult, paired: pd.DataFrame) -> dict[str, Any]:
    return _clean(result) | {"answers": compare_answers(paired)}


def _columns(paired: pd.DataFrame) -> tuple[Any, Any, Any]:
    """Scores of base and of the other, and the items' clusters."""
    a, b, clusters = (paired[name].to_numpy() for name in ("score_a", "score_b", "cluster_a"))
    return a, b, clusters


def _clean(result: PairedResult | NonInferiority) -> dict[str, Any]:
    """For JSON, without NaN: of one cluster only the bounds that scores have are known."""
    values = asdict(result)
    if "ci95" in values and math.isnan(values["ci95"][0]):
        values["ci95"] = (-1.0, 1.0)
    if "lower_bound" in values and math.isnan(values["lower_bound"]):
        values["lower_bound"] = -1.0
    if "mde80" in values and math.isnan(values["mde80"]):  # no effect is large enough
        values["mde80"] = None
    return values
