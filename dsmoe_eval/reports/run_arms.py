"""The arms of a run as reports show them: judgement, source in `comparisons.json`, and filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..results.arms import Arm
from ..results.paired import Paired
from ..results.schema import RunResult
from .table import Facets, Figure, Table, collect_facets, make_table, words

MARKS = ("gain ▲", "loss ▼", "neither", "non-inferior", "not shown non-inferior")
"""The values by which arms are filtered, in the order in which a page lists them."""
_SIGNS = {"good": "▲", "bad": "▼", "": ""}
_GAINS = {"good": "gain ▲", "bad": "loss ▼", "": "neither"}

ARM: tuple[Figure[Arm], ...] = (
    words("variant", lambda arm: arm.variant),
    words("target", lambda arm: arm.target),
)
"""The first columns of a table with one row per arm."""


@dataclass(frozen=True, slots=True)
class Part:
    """A comparison of an arm with base: on its target, on its non-targets, or on one domain.

    Attributes:
        arm: the arm.
        name: the subject of the comparison, as tables name it.
        place: the path of the comparison, within the arm in `comparisons.json`.
        figures: the comparison.
    """

    arm: Arm
    name: str
    place: str
    figures: Paired

    def source(self, place: str) -> str:
        """Return the path of a figure of the comparison, and its test."""
        return f"{arm_source(self.arm, f'{self.place}.{place}')}; {self.figures.test}"


def arm_source(arm: Arm, place: str) -> str:
    """Return the path of a figure of an arm."""
    return f"comparisons.json: arms[{arm.variant}, {arm.target}].{place}"


def non_inferiority_source(arm: Arm, place: str) -> str:
    """Return the path and test of a figure of the non-inferiority of an arm's non-targets."""
    source = arm_source(arm, f"non_target_result.non_inferiority.{place}")
    return f"{source}; {arm.non_targets.bound_test}"


def target_part(arm: Arm) -> Part:
    """Return the comparison on the arm's target."""
    return Part(arm, "target", "target_result", arm.target_result)


def non_target_part(arm: Arm) -> Part:
    """Return the comparison on all non-targets together."""
    return Part(arm, "non-targets", "non_target_result", arm.non_target_result)


def domain_parts(arm: Arm) -> tuple[Part, ...]:
    """Return the comparisons on the arm's non-target domains."""
    return tuple(Part(arm, row.domain, f"domains[{row.domain}]", row) for row in arm.domains)


def variants_of(result: RunResult) -> list[str]:
    """Return the variants that headlines and figures show, in the order of the plan.

    A control that is named after its arm (ARM+matched, ARM+wrong, ARM+sham) is not among them: it
    is shown as the arm's gain over it.
    """
    return list(dict.fromkeys(arm.variant for arm in shown_arms(result)))


def shown_arms(result: RunResult) -> list[Arm]:
    """Return the arms of `variants_of`."""
    return [arm for arm in result.arms if not is_named_after_arm(arm)]


def is_named_after_arm(arm: Arm) -> bool:
    """Return whether the arm is a control that has its name from the arm that it controls."""
    return arm.control_of is not None and arm.variant.startswith(f"{arm.control_of}+")


def targets_of(result: RunResult) -> list[str]:
    """Return the targets, in the order of the plan."""
    return list(dict.fromkeys(arm.target for arm in result.arms))


def arms_of(result: RunResult, variant: str) -> list[Arm]:
    """Return a variant's arms, one per target."""
    return [arm for arm in result.arms if arm.variant == variant]


def kind_of(arm: Arm, level: float) -> Literal["good", "bad", ""]:
    """Return `good` for a target gain significant after Holm's correction, `bad` for a loss."""
    figures = arm.target_result
    return kind_of_change(figures.p_adjusted, figures.delta, level)


def kind_of_change(
    p_adjusted: float | None, change: float, level: float
) -> Literal["good", "bad", ""]:
    """Return `good` for a gain that is significant after Holm's correction, `bad` for a loss."""
    if p_adjusted is None or p_adjusted >= level or change == 0:
        return ""
    return "good" if change > 0 else "bad"


def sign_of_change(p_adjusted: float | None, change: float, level: float) -> str:
    """Return the mark beside a change; empty if it is not significant."""
    return _SIGNS[kind_of_change(p_adjusted, change, level)]


def is_gain(figures: Paired, level: float) -> bool:
    """Return whether a comparison is a gain that is significant after Holm's correction."""
    return kind_of_change(figures.p_adjusted, figures.delta, level) == "good"


def improves(arm: Arm, level: float) -> bool:
    """Return whether the target gained significantly after Holm's correction."""
    return kind_of(arm, level) == "good"


def harms(arm: Arm, level: float) -> bool:
    """Return whether the target lost significantly after Holm's correction."""
    return kind_of(arm, level) == "bad"


def is_non_inferior(arm: Arm) -> bool:
    """Return whether the pooled non-targets are non-inferior at the plan's margin."""
    return arm.non_targets.non_inferiority.non_inferior


def lacks_items(arm: Arm) -> bool:
    """Return whether an arm equals base on all non-targets, and they are too few to show it."""
    both = arm.non_target_result
    return both.gained == both.lost == 0 and not is_non_inferior(arm)


def non_inferior_words(arm: Arm) -> str:
    """Return whether the pooled non-targets are shown to be non-inferior."""
    if is_non_inferior(arm):
        return "yes"
    return "too few items" if lacks_items(arm) else "not shown"


def sign_of(arm: Arm, level: float) -> str:
    """Return the mark beside the arm's gain; empty if neither gain nor loss is significant."""
    return _SIGNS[kind_of(arm, level)]


def marks_of(arm: Arm, level: float) -> tuple[str, str]:
    """Return the `MARKS` of an arm."""
    return _GAINS[kind_of(arm, level)], "non-inferior" if is_non_inferior(
        arm
    ) else "not shown non-inferior"


def facets_of(arm: Arm, level: float) -> Facets:
    """Return the facets by which an arm's rows are filtered."""
    return {"variant": (arm.variant,), "domain": (arm.target,), "mark": marks_of(arm, level)}


def run_facets(result: RunResult) -> Facets:
    """Return the facets by which a run's page can be filtered, with the values of each."""
    domains = {"domain": tuple(row.domain for row in result.base)}
    arms = (facets_of(arm, result.significance_level) for arm in result.arms)
    found = collect_facets([*arms, domains])
    return found | {"mark": tuple(mark for mark in MARKS if mark in found["mark"])}


def table_of_arms(
    name: str,
    caption: str,
    figures: Sequence[Figure[Arm]],
    result: RunResult,
    arms: Sequence[Arm] | None = None,
) -> Table:
    """Return a table with one row per arm, of these arms or of all."""
    shown = result.arms if arms is None else arms
    return make_table(
        name,
        caption,
        figures,
        shown,
        partial(facets_of, level=result.significance_level),
    )
