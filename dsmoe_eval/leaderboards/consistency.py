"""Figures of one arm that must follow from one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..stats import PairedCounts, holm, mcnemar_midp, tango_interval
from ..variants import get_variant
from .entries import Arm, Base, Header, NonInferiorityFigures, Paired

_NEAR = 1e-7
"""Figures are kept to nine digits."""
Fault = tuple[str, str, str]
"""Name of the rule, where it is broken, and how."""


def arm_faults(arm: Arm, header: Header, base: Mapping[str, Base]) -> Iterator[Fault]:
    """What does not fit in an arm's figures.

    Args:
        arm: as it was filed.
        header: of its run.
        base: base's rows by task.
    """
    for where, paired in _comparisons(arm):
        yield from _paired_faults(where, paired, header)
        if paired.non_inferiority is not None:
            yield from _held_faults(where, paired, paired.non_inferiority, header)
    yield from _pool_faults(arm)
    yield from _generalization_faults(arm, header)
    yield from _base_faults(arm, base)
    yield from _probe_faults(arm)


def _comparisons(arm: Arm) -> Iterator[tuple[str, Paired]]:
    yield "target_result", arm.target_result
    yield "non_target_result", arm.non_target_result
    for row in arm.domains:
        yield f"domains[{row.task}]", row
    for name in ("over_placebo", "specificity"):
        found = getattr(arm.generalization, name)
        if found is not None:
            yield f"generalization.{name}", found


def _paired_faults(where: str, paired: Paired, header: Header) -> Iterator[Fault]:
    low, high = paired.ci95
    difference = paired.score_b - paired.score_a
    if not _near(paired.delta, difference):
        yield (
            "delta", f"{where}.delta", f"is {paired.delta:g}, but the scores' difference is "
            f"{difference:g}",
        )  # fmt: skip
    if low > high:
        yield "interval", f"{where}.ci95", f"ends at {high:g} before it begins at {low:g}"
    elif not low - _NEAR <= paired.delta <= high + _NEAR:
        yield "interval", f"{where}.ci95", f"excludes its estimate {paired.delta:g}"
    if paired.gained + paired.lost > paired.n or paired.clusters > paired.n:
        yield "counts", f"{where}.n", f"{paired.n} items cannot gain, lose or cluster so often"
    if paired.test == "mid-p McNemar":
        yield from _binary_faults(where, paired)
    yield from _claim_faults(where, paired, header)


def _binary_faults(where: str, paired: Paired) -> Iterator[Fault]:
    """Of single right or wrong answers everything follows from four counts."""
    right = paired.score_a * paired.n
    try:
        counts = PairedCounts(paired.n, round(right), paired.gained, paired.lost)
    except ValueError as error:
        yield "counts", where, str(error)
        return
    if abs(right - round(right)) > 1e-4 or not _near(paired.delta, counts.delta):
        yield (
            "counts",
            where,
            f"{paired.gained} gained and {paired.lost} lost make {counts.delta:g}",
        )
        return
    p_value = mcnemar_midp(paired.gained, paired.lost)
    if not math.isclose(paired.p_value, p_value, rel_tol=1e-6, abs_tol=1e-12):
        yield "p-value", f"{where}.p_value", f"is {paired.p_value:g}; its counts give {p_value:g}"
    low, high = tango_interval(counts)
    if max(abs(low - paired.ci95[0]), abs(high - paired.ci95[1])) > 1e-5:
        yield "interval", f"{where}.ci95", f"is not the one of its counts, {low:g} to {high:g}"


def _claim_faults(where: str, paired: Paired, header: Header) -> Iterator[Fault]:
    if paired.p_adjusted is None or paired.claim is None:
        if (paired.p_adjusted is None) != (paired.claim is None):
            yield "claim", where, "has an adjusted p-value or a claim without the other"
        return
    if paired.p_adjusted < paired.p_value - _NEAR:
        yield "adjustment", f"{where}.p_adjusted", "is smaller than the p-value that it adjusts"
    low, high = paired.ci95
    expected = "equivalent" if -header.margin < low and high < header.margin else "inconclusive"
    if paired.p_adjusted <= header.alpha and paired.delta != 0:
        expected = "improves" if paired.delta > 0 else "harms"
    if paired.claim.verdict != expected:
        yield "claim", f"{where}.claim", f"says {paired.claim.verdict}; its figures say {expected}"


def _held_faults(
    where: str, paired: Paired, held: NonInferiorityFigures, header: Header
) -> Iterator[Fault]:
    where = f"{where}.non_inferiority"
    same = (held.n, held.gained, held.lost) == (paired.n, paired.gained, paired.lost)
    if not same or not _near(held.delta, paired.delta):
        yield "non-inferiority", where, "is of other items than the comparison that it is part of"
    if held.lower_bound > held.delta + _NEAR:
        yield "non-inferiority", f"{where}.lower_bound", "is above its estimate"
    if held.holds != (held.lower_bound > -held.margin):
        yield "non-inferiority", f"{where}.holds", f"its bound is {held.lower_bound:g}"
    if not _near(held.margin, header.margin) or not _near(held.alpha, header.alpha / 2):
        yield "non-inferiority", where, "has another margin or level than the plan"


def _pool_faults(arm: Arm) -> Iterator[Fault]:
    """The pool is its domains, item by item."""
    pool = arm.non_target_result
    for name in ("n", "gained", "lost"):
        total = sum(getattr(row, name) for row in arm.domains)
        if getattr(pool, name) != total:
            yield "pool", f"non_target_result.{name}", f"is {getattr(pool, name)}, not {total}"
    items = sum(row.n for row in arm.domains)
    for name in ("score_a", "score_b"):
        mean = sum(getattr(row, name) * row.n for row in arm.domains) / items
        if not _near(getattr(pool, name), mean):
            yield "pool", f"non_target_result.{name}", f"is not the domains' mean, {mean:g}"


def _generalization_faults(arm: Arm, header: Header) -> Iterator[Fault]:
    found, own, pool = arm.generalization, arm.target_result, arm.non_target_result
    change = found.non_target_change
    deltas = [row.delta for row in arm.domains]
    kept = pool.score_b / pool.score_a if pool.score_a else None
    held = [row.non_inferiority for row in arm.domains if row.non_inferiority is not None]
    pairs: tuple[tuple[str, float | None, float | None], ...] = (
        ("target_gain", found.target_gain, own.delta),
        ("non_target_change.pooled", change.pooled, pool.delta),
        ("non_target_change.worst", change.worst, min(deltas)),
        ("retention", found.retention, kept),
        ("flipped.target", found.flipped.target, (own.gained + own.lost) / own.n),
        ("flipped.non_target", found.flipped.non_target, (pool.gained + pool.lost) / pool.n),
        ("all_hold.p_value", found.all_hold.p_value, max((h.p_value for h in held), default=None)),
    )
    for where, figure, expected in pairs:
        if (figure is None) != (expected is None) or not _near(figure or 0, expected or 0):
            yield "generalization", f"generalization.{where}", f"is {figure}, not {expected}"
    if found.all_hold.holds != (len(held) == len(deltas) and all(one.holds for one in held)):
        yield "generalization", "generalization.all_hold.holds", "is not what its domains say"
    lost = _regressions(arm, header.alpha)
    if len(found.regressions) != lost:
        yield "generalization", "generalization.regressions", f"{lost} domains fell by Holm"


def _regressions(arm: Arm, alpha: float) -> int:
    adjusted = holm([row.p_value for row in arm.domains])
    pairs = zip(adjusted, arm.domains, strict=True)
    return sum(bool(p <= alpha and row.delta < 0) for p, row in pairs)


def _base_faults(arm: Arm, base: Mapping[str, Base]) -> Iterator[Fault]:
    """Base's scores are those that the arm was compared with."""
    rows: list[tuple[str, Paired]] = [(row.task, row) for row in arm.domains]
    (own,) = set(arm.cells) - {task for task, _ in rows} or {""}
    for task, row in (*rows, (own, arm.target_result)):
        if task not in base:
            yield "vanished-task", f"cells[{task}]", "base has no score of this task"
        elif base[task].n != row.n or not _near(base[task].score, row.score_a):
            yield (
                "base",
                f"base[{task}]",
                f"{base[task].score:g} of {base[task].n} is not the arm's",
            )


def _probe_faults(arm: Arm) -> Iterator[Fault]:
    variant = get_variant(arm.variant)
    moved = any(p.gained or p.lost for w, p in _comparisons(arm) if "generalization" not in w)
    if arm.equal_to_base and moved:
        yield "sham", "equal_to_base", "is true, but answers changed"
    if variant.null and not arm.equal_to_base:
        yield "sham", "equal_to_base", "a sham must equal base"
    if variant.kind != "steered":
        return
    if arm.probe is None or arm.profile is None:
        yield "probe", "probe", "a steered arm has probes and a profile"
    elif arm.probe.null_max_difference != 0:
        yield "probe", "probe.null_max_difference", "strength zero must change nothing"
    elif arm.probe.logit_max_change == 0 and not variant.null:
        yield "probe", "probe.logit_max_change", "the profile moved nothing"


def adjustment_faults(arms: Sequence[Arm]) -> Iterator[tuple[Arm, Fault]]:
    """Holm's adjustment over all arms of a run that claim something."""
    for name in ("target_result", "non_target_result"):
        family = [(arm, getattr(arm, name)) for arm in arms]
        family = [(arm, row) for arm, row in family if row.p_adjusted is not None]
        expected = holm([row.p_value for _, row in family])
        for (arm, row), p in zip(family, expected, strict=True):
            if not math.isclose(row.p_adjusted, p, rel_tol=1e-6, abs_tol=1e-12):
                words = f"is {row.p_adjusted:g}; Holm over {len(family)} arms gives {p:g}"
                yield arm, ("adjustment", f"{name}.p_adjusted", words)


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _NEAR * max(1.0, abs(one), abs(other))
