"""What each arm may claim, and what it gained and cost: the run's first-class figures.

Every family of tests follows from the plan: which arms, controls and domains there are, never
what came out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..cards import Plan, Variant
from ..stats import (
    NonInferiority,
    PairedResult,
    all_hold,
    claim,
    flip_rate,
    holm,
    non_target_change,
    overhead_ratio,
    regressions,
    retention,
)
from .cells import answer_rates

FAMILIES = {
    "target": "every arm but null ones, on its target",
    "non_target": "every arm but null ones, on its pooled non-targets",
    "domains": "the non-target domains of one arm",
    "over_placebo": "every arm with a placebo, against it on its target",
    "specificity": "every arm with a wrong-domain control, against it on its target",
}
"""What is adjusted together, each by Holm at the plan's alpha."""


@dataclass(frozen=True, slots=True)
class Contrasts:
    """The comparisons of one arm.

    Attributes:
        target: with base, on the target.
        pooled: with base, on all non-targets.
        domains: with base, on each non-target task, in the order of the suite.
        held: non-inferiority on each of these, at the plan's margin.
        placebo: with its placebo on the target; None where the plan has none.
        wrong: with the wrong-domain control, likewise.
    """

    variant: Variant
    target: PairedResult
    pooled: PairedResult
    domains: tuple[PairedResult, ...]
    held: tuple[NonInferiority, ...]
    placebo: PairedResult | None
    wrong: PairedResult | None


@dataclass(frozen=True, slots=True)
class Claims:
    """For each comparison of an arm `p_adjusted` and `claim`; empty where nothing is claimed."""

    target: dict[str, Any]
    pooled: dict[str, Any]
    domains: tuple[dict[str, Any], ...]
    placebo: dict[str, Any]
    wrong: dict[str, Any]


def claims_of(arms: Sequence[Contrasts], plan: Plan) -> list[Claims]:
    """What each arm may claim, by the families of `FAMILIES`; null arms claim nothing."""
    claiming = [not arm.variant.null for arm in arms]

    def family(results: Sequence[PairedResult | None]) -> list[dict[str, Any]]:
        return _family([r if own else None for r, own in zip(results, claiming, strict=True)], plan)

    return [
        Claims(target, pooled, tuple(_family(domains, plan)), placebo, wrong)
        for target, pooled, domains, placebo, wrong in zip(
            family([arm.target for arm in arms]),
            family([arm.pooled for arm in arms]),
            [[None if arm.variant.null else r for r in arm.domains] for arm in arms],
            family([arm.placebo for arm in arms]),
            family([arm.wrong for arm in arms]),
            strict=True,
        )
    ]


def _family(results: Sequence[PairedResult | None], plan: Plan) -> list[dict[str, Any]]:
    adjusted = iter(holm([result.p_value for result in results if result is not None]))
    rows: list[dict[str, Any]] = []
    for result in results:
        if result is None:
            rows.append({})
            continue
        p_adjusted = float(next(adjusted))
        said = claim(result, plan.margin, plan.alpha, p_adjusted)
        rows.append({"p_adjusted": p_adjusted, "claim": asdict(said)})
    return rows


def figures_of(
    arm: Contrasts, target: pd.DataFrame, others: Mapping[str, pd.DataFrame], alpha: float
) -> dict[str, Any]:
    """What an arm gained and cost, without its controls.

    Args:
        arm: its comparisons.
        target: items of the target, paired with base's (`comparisons.pair`).
        others: those of each non-target domain, in the order of `arm.domains`.
        alpha: of the plan.
    """
    scores = {name: (part["score_a"], part["score_b"]) for name, part in others.items()}
    pooled = pd.concat(list(others.values()))
    kept = retention(pooled["score_a"], pooled["score_b"])
    largest_p, hold = all_hold(arm.held)
    lost = regressions(arm.domains, alpha)
    rates = [answer_rates(part, "_b") or {} for part in (target, pooled)]
    return {
        "target_gain": arm.target.delta,
        "non_target_change": asdict(non_target_change(scores)),
        "retention": None if math.isnan(kept) else kept,
        "flipped": {"target": flip_rate(arm.target), "non_target": flip_rate(arm.pooled)},
        "tokens_ratio": _tokens_ratio(pd.concat([target, pooled])),
        "invalid": max(one.get("invalid", 0.0) for one in rates),
        "truncated": max(one.get("truncated", 0.0) for one in rates),
        "all_hold": {"p_value": largest_p, "holds": hold},
        "regressions": [name for name, is_lost in zip(others, lost, strict=True) if is_lost],
    }


def _tokens_ratio(paired: pd.DataFrame) -> float | None:
    """Generated tokens over base's; 1 where options are scored, since both read the same.

    Time would differ from one run of the same plan to the next.
    """
    generated = paired[paired["tokens_a"].str.len() > 0]
    if generated.empty:
        return 1.0
    before, after = (generated[f"tokens_{side}"].map(np.sum) for side in "ab")
    return overhead_ratio(before, after) if before.sum() > 0 else None
