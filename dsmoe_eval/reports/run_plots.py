"""The plots of a run's `index.html`, which the page draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..results.arms import Arm
from ..results.schema import RunResult
from .page import Forest, Interval, Plane, Point
from .run_arms import (
    Part,
    facets_of,
    is_gain,
    is_non_inferior,
    kind_of,
    non_target_part,
    shown_arms,
    target_part,
    targets_of,
)


def forests(result: RunResult) -> tuple[Forest, ...]:
    """Return every arm's changes, grouped by target: of target, of non-targets, over placebo."""
    level = result.significance_level
    shown = shown_arms(result)
    ordered = [arm for name in targets_of(result) for arm in shown if arm.target == name]
    own = tuple(
        _interval(target_part(arm), arm.target, level, kind_of(arm, level)) for arm in ordered
    )
    rest = tuple(
        _interval(non_target_part(arm), f"all else, steered for {arm.target}", level, mark)
        for arm, mark in ((arm, "mark" if is_non_inferior(arm) else "") for arm in ordered)
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
            result.margin,
        ),
        *_over_placebo(ordered, level),
    )


def _over_placebo(arms: Sequence[Arm], level: float) -> Iterator[Forest]:
    """Yield the plot of gains over placebo, if there are any."""
    rows = [
        _interval(
            Part(arm, "over placebo", "over_placebo", arm.over_placebo),
            f"{arm.target}, over its placebo",
            level,
            "good" if is_gain(arm.over_placebo, level) else "",
        )
        for arm in arms
        if arm.over_placebo is not None
    ]
    if rows:
        yield Forest(
            "forest-placebo",
            "What it changed beyond its placebo: random experts of the same layers and exposure.",
            "The mean of the placebo's draws on the same items. A filled dot is a gain that stands "
            "after Holm's correction.",
            "target score less its placebo's, percentage points",
            tuple(rows),
        )


def _interval(part: Part, group: str, level: float, kind: str) -> Interval:
    low, high = part.figures.ci95
    return Interval(
        part.arm.variant, part.figures.delta, low, high, part.figures.n, part.source("delta"),
        group, kind, facets_of(part.arm, level),
    )  # fmt: skip


def plane(result: RunResult) -> Plane:
    """Return every arm's target gain against its non-target cost, on the test split."""
    return Plane(
        "plane",
        "Gain against loss on the test split.",
        "Every point is one arm; its lines are 95 % intervals. Up is gain on the target; left of "
        "the broken line it cost more than the margin elsewhere. Controls are greyed.",
        "change of non-target score, percentage points",
        "change of target score, percentage points",
        tuple(_point(arm, result.significance_level) for arm in shown_arms(result)),
        result.margin,
    )


def _point(arm: Arm, level: float) -> Point:
    own, rest = target_part(arm), non_target_part(arm)
    (x_low, x_high), (y_low, y_high) = rest.figures.ci95, own.figures.ci95
    return Point(
        f"{arm.variant} on {arm.target}", rest.figures.delta, own.figures.delta,
        x_low, x_high, y_low, y_high, f"{own.source('delta')}; {rest.source('delta')}",
        arm.variant, arm.control_of is not None, facets_of(arm, level),
    )  # fmt: skip
