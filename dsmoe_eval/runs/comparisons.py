"""Every arm against base, item by item: the figures that the report, and nobody else, renders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..cards import Plan, Suite, Variant
from ..errors import UserError
from ..stats import NonInferiority, PairedResult, compare_paired, holm, non_inferiority
from .cells import read_cell, read_samples
from .folder import RunFolder

SCHEMA_VERSION = 2
"""Of `comparisons.json`."""


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
    """The content of `comparisons.json`.

    The family of target claims is every arm of the plan on every target, controls too, but for
    null variants, which claim nothing; it is adjusted by Holm.
    """
    rows = [_compare_arm(folder, plan, suite, base, arm) for arm in arms]
    claims = [row for row, arm in zip(rows, arms, strict=True) if not arm.variant.null]
    adjusted = holm([row["target_result"]["p_value"] for row in claims])
    for row, p_adjusted in zip(claims, adjusted, strict=True):
        row["target_result"]["p_adjusted"] = float(p_adjusted)
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": plan.name,
        "suite": suite.name,
        "alpha": plan.alpha,
        "margin": plan.margin,
        "seed": plan.seed,
        "family": f"{len(claims)} target claims, Holm",
        "run": identity,
        "base": [_base_row(folder, suite, name, cell) for name, cell in base.items()],
        "arms": rows,
    }


def _base_row(folder: RunFolder, suite: Suite, name: str, cell_id: str) -> dict[str, Any]:
    cell = read_cell(folder, cell_id)
    task = suite.task(name)
    return {
        "task": name,
        "cell": cell_id,
        "domain": task.domain,
        "role": "target" if "target" in task.roles else "non-target",
        "n": cell["items"],
        "score": cell["score"],
        "answers": cell["answers"],
    }


def _compare_arm(
    folder: RunFolder, plan: Plan, suite: Suite, base: dict[str, str], arm: ArmCells
) -> dict[str, Any]:
    paired = {
        name: pair(read_samples(folder, base[name]), read_samples(folder, cell), name)
        for name, cell in arm.cells.items()
    }
    target = suite.target_task(arm.target)
    others = suite.non_target_tasks(arm.target)
    pooled = pd.concat([paired[task.name] for task in others])
    a, b, clusters = _columns(pooled)
    held = non_inferiority(a, b, plan.margin, plan.alpha / 2, clusters, plan.seed)
    return {
        "variant": arm.variant.name,
        "target": arm.target,
        "control_of": arm.variant.control_of,
        "settings": arm.settings,
        "profile": arm.profile,
        "cells": arm.cells,
        "equal_to_base": all(bool((p.score_a == p.score_b).all()) for p in paired.values()),
        "target_result": _result(paired[target.name], plan.seed),
        "non_target_result": _result(pooled, plan.seed) | {"non_inferiority": _clean(held)},
        "domains": [
            {"domain": task.domain, "task": task.name} | _result(paired[task.name], plan.seed)
            for task in others
        ],
    }


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
    sides = {side: _answer_rates(generated, side) for side in ("a", "b")}
    whole = generated[_is_whole(generated, "a") & _is_whole(generated, "b")]
    delta = float((whole["score_b"] - whole["score_a"]).mean()) if len(whole) else None
    return {**sides, "n": len(generated), "both_whole": {"n": len(whole), "delta": delta}}


def _answer_rates(generated: pd.DataFrame, side: str) -> dict[str, float]:
    columns = {"mean_tokens": "tokens", "truncated": "truncated", "invalid": "invalid"}
    return {
        name: float(np.concatenate(generated[f"{column}_{side}"].to_list()).mean())
        for name, column in columns.items()
    }


def _is_whole(generated: pd.DataFrame, side: str) -> pd.Series[bool]:
    return ~(generated[f"truncated_{side}"].map(np.any) | generated[f"invalid_{side}"].map(np.any))


def _result(paired: pd.DataFrame, seed: int) -> dict[str, Any]:
    a, b, clusters = _columns(paired)
    result = _clean(compare_paired(a, b, clusters, seed))
    return result | {"answers": compare_answers(paired)}


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
