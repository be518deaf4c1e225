"""The plots of a run's `index.html`, drawn in the page."""

from __future__ import annotations

from typing import Any

from . import tables
from .page import Forest, Interval, Plane, Point
from .run_page import facets_of, kind_of, trace_of
from .tables import Arm


def forests(result: dict[str, Any]) -> tuple[Forest, Forest]:
    """Every arm's change of its target and of the pooled non-targets, grouped by target."""
    alpha = result["alpha"]
    ordered = [a for t in tables.targets_of(result) for a in result["arms"] if a["target"] == t]
    own = tuple(_interval(arm, "target_result", alpha, kind_of(arm, alpha)) for arm in ordered)
    rest = tuple(
        _interval(arm, "non_target_result", alpha, "mark" if tables.holds(arm) else "")
        for arm in ordered
    )
    return (
        Forest(
            "forest-target",
            "What each variant changed on its target, with 95 % intervals.",
            "A filled dot is a gain that stands after Holm's correction. Look for rows that are "
            "right of zero here and right of the broken line (the margin) in the next plot.",
            "change of target score, percentage points",
            own,
        ),
        Forest(
            "forest-rest",
            "What it changed elsewhere: all non-target questions of the same arm, pooled.",
            "A filled dot is non-inferior at the margin.",
            "change of non-target score, percentage points",
            rest,
            result["margin"],
        ),
    )


def _interval(arm: Arm, part: str, alpha: float, kind: str) -> Interval:
    figures = arm[part]
    low, high = figures["ci95"]
    group = arm["target"] if part == "target_result" else f"all else, steered for {arm['target']}"
    return Interval(
        arm["variant"], figures["delta"], low, high, figures["n"], trace_of(arm, f"{part}.delta"),
        group, kind, facets_of(arm, alpha),
    )  # fmt: skip


def plane(result: dict[str, Any]) -> Plane:
    """Every arm's gain against what it cost elsewhere, on the test split."""
    return Plane(
        "plane",
        "Gain against loss on the test split.",
        "Every point is one arm; its lines are 95 % intervals. Up is gain on the target; left of "
        "the broken line it cost more than the margin elsewhere. Controls are greyed.",
        "change of non-target score, percentage points",
        "change of target score, percentage points",
        tuple(_point(arm, result["alpha"]) for arm in result["arms"]),
        result["margin"],
    )


def _point(arm: Arm, alpha: float) -> Point:
    own, rest = arm["target_result"], arm["non_target_result"]
    traces = (trace_of(arm, f"{part}.delta") for part in ("target_result", "non_target_result"))
    (x_low, x_high), (y_low, y_high) = rest["ci95"], own["ci95"]
    return Point(
        f"{arm['variant']} on {arm['target']}", rest["delta"], own["delta"],
        x_low, x_high, y_low, y_high, "; ".join(traces),
        arm["variant"], arm["control_of"] is not None, facets_of(arm, alpha),
    )  # fmt: skip
