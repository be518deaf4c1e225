"""Stored figures of an arm by other outcomes than the score that must fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..results.arms import Arm
from ..results.outcomes import OVER, OutcomeDifference
from ..variants import get_variant

NEAR = 1e-7
"""Figures are kept to nine digits."""
Fault = tuple[str, str, str]
"""Name of the rule, where it is broken, and how."""


def outcome_faults(arm: Arm) -> Iterator[Fault]:
    """Yield what does not fit in an arm's comparisons by outcome; levels and gains fit already."""
    variant = get_variant(arm.variant)
    null, rounded = variant.zero_strength, variant.quantized is not None
    for result in arm.outcomes:
        for place, row in result.comparisons():
            where = f"outcomes[{result.outcome}].{place}"
            yield from _row_faults(where, row)
            flat = place == "over_quantized" or not rounded  # rounding changes base's answers
            if null and (row.p_adjusted is not None or (flat and (row.gained or row.lost))):
                model = "the quantized model" if rounded else "base"
                yield "sham", where, f"a sham must equal {model}, and claims nothing"
        claiming = [row for row in (result.target, result.non_targets) if row is not None]
        if not null and any(row.p_adjusted is None for row in claiming):
            yield "claim", f"outcomes[{result.outcome}]", "lacks an adjusted p-value"


def _row_faults(where: str, row: OutcomeDifference) -> Iterator[Fault]:
    if row.ci95 is not None and not row.ci95[0] - NEAR <= row.gain <= row.ci95[1] + NEAR:
        yield "interval", f"{where}.ci95", f"excludes its estimate {row.gain:g}"
    if row.gained + row.lost > row.n or row.clusters > row.n:
        yield "counts", f"{where}.n", f"{row.n} items cannot gain, lose or cluster so often"
    bound = row.non_inferiority
    if bound is None:
        return
    if bound.lower_bound is None:
        shown = False
    else:
        shown = bound.lower_bound > -row.levels.margin
        if bound.lower_bound > row.gain + NEAR:
            yield "non-inferiority", f"{where}.lower_bound", "is above its estimate"
    if bool(row.non_inferior) != shown:
        words = f"is {bound.lower_bound}, and the p-value {bound.p_value:g}"
        yield "non-inferiority", f"{where}.lower_bound", words


def arms_and_controls(arms: Sequence[Arm]) -> tuple[list[Arm], list[Arm]]:
    """Return the arms and the controls, whose claims are separate families."""
    controls = [arm for arm in arms if arm.control_of]
    return [arm for arm in arms if not arm.control_of], controls


def outcome_families(
    arms: Sequence[Arm],
) -> Iterator[tuple[str, list[tuple[Arm, OutcomeDifference]]]]:
    """Yield the families of claims of each outcome: of arms, of controls, and of each arm's tasks.

    Yields:
        The path of the family's comparisons, and each of them with its arm.
    """
    names = dict.fromkeys(result.outcome for arm in arms for result in arm.outcomes)
    for name in names:
        for place in ("target", "non_targets", *OVER):
            for kind in arms_and_controls(arms):
                rows = [(arm, getattr(arm.outcome(name), place, None)) for arm in kind]
                yield (
                    f"outcomes[{name}].{place}",
                    [(arm, row) for arm, row in rows if row is not None],
                )
        for arm in arms:
            result = arm.outcome(name)
            yield (
                f"outcomes[{name}].tasks[*]",
                [] if result is None else [(arm, row) for row in result.tasks],
            )
