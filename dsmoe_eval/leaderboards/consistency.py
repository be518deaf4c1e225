"""Figures of one arm that must follow from one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from scipy.special import ndtr
from statsmodels.stats.proportion import proportion_confint

from ..results.schema import Answers, Arm, Base, Header, NonInferiorityFigures, Paired, Rates
from ..stats import (
    PairedCounts,
    holm,
    mcnemar_midp,
    smallest_effect,
    tango_interval,
    tango_z,
)
from ..variants import get_variant

_NEAR = 1e-7
"""Figures are kept to nine digits."""
_interval = lru_cache(maxsize=4096)(tango_interval)  # a comparison and its bound share one
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
        yield from _paired_faults(where, paired)
        yield from _claim_faults(where, paired, header, get_variant(arm.variant).null)
        if paired.non_inferiority is not None:
            yield from _held_faults(where, paired, paired.non_inferiority, header)
    yield from _power_faults(arm.target_result)
    yield from _pool_faults(arm)
    yield from _generalization_faults(arm, header)
    yield from _cost_faults(arm, base)
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


def _paired_faults(where: str, paired: Paired) -> Iterator[Fault]:
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


def _binary_faults(where: str, paired: Paired) -> Iterator[Fault]:
    """Of single right or wrong answers everything follows from four counts."""
    right = paired.score_a * paired.n
    try:
        counts = PairedCounts(paired.n, round(right), paired.gained, paired.lost)
    except ValueError as error:
        yield "counts", where, str(error)
        return
    if paired.clusters != paired.n:
        yield "counts", f"{where}.clusters", "are not the items, though each stands alone"
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
    low, high = _interval(counts, 0.95)
    if max(abs(low - paired.ci95[0]), abs(high - paired.ci95[1])) > 1e-5:
        yield "interval", f"{where}.ci95", f"is not the one of its counts, {low:g} to {high:g}"


def _power_faults(paired: Paired) -> Iterator[Fault]:
    """The target's smallest effect, which decides a mark; of the others it would take long."""
    if paired.test != "mid-p McNemar" or paired.gained + paired.lost > paired.n:
        return
    found = smallest_effect(paired.n, (paired.gained + paired.lost) / paired.n)
    given = math.nan if paired.mde80 is None else paired.mde80
    if math.isnan(found) != math.isnan(given) or abs(found - given) > 1e-5:
        yield "power", "target_result.mde80", f"is {paired.mde80}; its counts give {found:g}"


def _claim_faults(where: str, paired: Paired, header: Header, null: bool) -> Iterator[Fault]:
    if paired.p_adjusted is None or paired.claim is None:
        if (paired.p_adjusted is None) != (paired.claim is None):
            yield "claim", where, "has an adjusted p-value or a claim without the other"
        elif not null:
            yield "claim", where, "lacks its adjusted p-value and its claim"
        return
    if null:
        yield "claim", where, "claims something, which a null arm must not"
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
    names = ("n", "gained", "lost", "clusters")
    same = all(getattr(held, name) == getattr(paired, name) for name in names)
    same = same and (held.test == "Tango score test") == (paired.test == "mid-p McNemar")
    if not same or not _near(held.delta, paired.delta):
        yield "non-inferiority", where, "is of other items than the comparison that it is part of"
    if held.lower_bound > held.delta + _NEAR:
        yield "non-inferiority", f"{where}.lower_bound", "is above its estimate"
    if not held.holds == (held.lower_bound > -held.margin) == (held.p_value < held.alpha):
        words = f"its bound is {held.lower_bound:g}, its p-value {held.p_value:g}"
        yield "non-inferiority", f"{where}.holds", words
    if not _near(held.margin, header.margin) or not _near(held.alpha, header.alpha / 2):
        yield "non-inferiority", where, "has another margin or level than the plan"
    elif same and paired.test == "mid-p McNemar":
        yield from _score_test_faults(where, paired, held)


def _score_test_faults(where: str, paired: Paired, held: NonInferiorityFigures) -> Iterator[Fault]:
    try:
        right = round(paired.score_a * paired.n)
        counts = PairedCounts(paired.n, right, paired.gained, paired.lost)
    except ValueError:
        return  # told of the comparison
    p_value = float(ndtr(-tango_z(counts, -held.margin)))
    bound = _interval(counts, round(1 - 2 * held.alpha, 12))[0]
    if not math.isclose(held.p_value, p_value, rel_tol=1e-6, abs_tol=1e-12):
        words = f"is {held.p_value:g}; its counts give {p_value:g}"
        yield "non-inferiority", f"{where}.p_value", words
    if abs(held.lower_bound - bound) > 1e-5:
        words = f"is {held.lower_bound:g}; its counts give {bound:g}"
        yield "non-inferiority", f"{where}.lower_bound", words


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
        ("non_target_change.macro", change.macro, sum(deltas) / len(deltas)),
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
    rows = dict(zip(_domain_names(arm), arm.domains, strict=False))
    worst = rows.get(change.worst_domain)
    if worst is None or not _near(worst.delta, min(deltas)):
        where = "generalization.non_target_change.worst_domain"
        yield "generalization", where, f"{change.worst_domain} did not fall most"
    adjusted = holm([row.p_value for row in arm.domains])
    family = zip(adjusted, _domain_names(arm), arm.domains, strict=True)
    lost = tuple(name for p, name, row in family if p <= header.alpha and row.delta < 0)
    if found.regressions != lost:
        words = f"by Holm {', '.join(lost) or 'none'} fell"
        yield "generalization", "generalization.regressions", words


def _domain_names(arm: Arm) -> list[str]:
    """Its domains, or its tasks where a domain has several."""
    names = [row.domain for row in arm.domains]
    return names if len(set(names)) == len(names) else [row.task for row in arm.domains]


def _cost_faults(arm: Arm, base: Mapping[str, Base]) -> Iterator[Fault]:
    """What generated answers took, and how many were cut off or none."""
    found, parts = arm.generalization, [arm.target_result, arm.non_target_result]
    for name in ("invalid", "truncated"):
        rates = [row.answers.b for row in parts if row.answers is not None]
        expected = max((getattr(one, name) for one in rates if one is not None), default=0.0)
        if not _near(getattr(found, name), expected):
            yield "generalization", f"generalization.{name}", f"is not {expected:g}, its answers'"
    rows = _rows_by_task(arm)
    generated = [(task, row.answers) for task, row in rows.items() if row.answers is not None]
    for task, answers in generated:
        yield from _answer_faults(task, rows[task], answers, base.get(task))
    before, after = (_total(generated, base, side, "mean_tokens") for side in "ab")
    ratio = None if not before else after / before
    ratio = ratio if generated else 1.0
    given = found.tokens_ratio
    if (ratio is None) != (given is None) or not _near(given or 0.0, ratio or 0.0):
        words = f"is {given}; its tasks' answers give {ratio}"
        yield "generalization", "generalization.tokens_ratio", words
    others = {row.task for row in arm.domains}
    pooled = [(task, answers) for task, answers in generated if task in others]
    yield from _pooled_answer_faults(arm.non_target_result.answers, pooled, base)


_RATES = ("mean_tokens", "truncated", "invalid")
_Generated = Sequence[tuple[str, Answers]]


def _total(
    generated: _Generated, base: Mapping[str, Base], side: str, name: str | None = None
) -> float:
    """The sum of a rate over all answers; without one, how many answers there are."""
    total = 0.0
    for task, answers in generated:
        rates, own = getattr(answers, side), base[task].answers if task in base else None
        samples = 1 if own is None or own.samples is None else own.samples
        value = 1.0 if name is None else 0.0 if rates is None else float(getattr(rates, name))
        total += answers.n * samples * value
    return total


def _pooled_answer_faults(
    pool: Answers | None, parts: _Generated, base: Mapping[str, Base]
) -> Iterator[Fault]:
    where = "non_target_result.answers"
    if pool is None or not parts:
        if pool is not None or parts:
            yield "pool", where, "are there, but not its domains', or the other way round"
        return
    if pool.n != sum(one.n for _, one in parts):
        yield "pool", f"{where}.n", "is not the sum of its domains'"
    for name in ("n", "delta"):
        values = [
            one.both_whole.n * (1 if name == "n" else one.both_whole.delta or 0) for _, one in parts
        ]
        own = pool.both_whole.n * (1 if name == "n" else pool.both_whole.delta or 0)
        if not _near(own, sum(values)):
            yield "pool", f"{where}.both_whole.{name}", "is not its domains'"
    for side in "ab":
        rates = getattr(pool, side)
        for name in _RATES:
            mean = _total(parts, base, side, name) / (_total(parts, base, side) or 1.0)
            if rates is None or not _near(getattr(rates, name), mean):
                yield "pool", f"{where}.{side}.{name}", f"is not its domains', {mean:g}"


def _answer_faults(task: str, row: Paired, own: Answers, base: Base | None) -> Iterator[Fault]:
    where = f"answers[{task}]"
    if own.n != row.n or own.both_whole.n > own.n:
        yield "answers", f"{where}.n", f"{own.n} items were generated and {row.n} answered"
    whole = own.both_whole
    if (whole.delta is None) != (whole.n == 0):
        yield "answers", f"{where}.both_whole", "has a change of no item, or none of some"
    elif whole.n == row.n and not _near(whole.delta or 0.0, row.delta):
        yield "answers", f"{where}.both_whole.delta", "is of all items, and not their change"
    if base is not None and not _same_rates(own.a, base.answers):
        yield "answers", f"{where}.a", "is not what base's answers took"


def _same_rates(one: Rates | None, other: Rates | None) -> bool:
    if one is None or other is None:
        return False
    return all(_near(getattr(one, name), getattr(other, name)) for name in _RATES)


def _rows_by_task(arm: Arm) -> dict[str, Paired]:
    """Its comparisons with base by task; the target's is the one that no domain has."""
    rows: dict[str, Paired] = {row.task: row for row in arm.domains}
    own = set(arm.cells) - set(rows)
    return rows | ({own.pop(): arm.target_result} if len(own) == 1 else {})


def _base_faults(arm: Arm, base: Mapping[str, Base]) -> Iterator[Fault]:
    """Base's scores are those that the arm was compared with."""
    rows = _rows_by_task(arm)
    if set(rows) != set(arm.cells) or len(rows) != len(arm.domains) + 1:
        yield "cells", "cells", "are not those of the target and of each domain"
    for task, row in rows.items():
        if task not in base:
            yield "vanished-task", f"cells[{task}]", "base has no score of this task"
            continue
        own, where = base[task], f"base[{task}]"
        if own.n != row.n or not _near(own.score, row.score_a):
            yield "base", where, f"{own.score:g} of {own.n} is not the arm's"
        if row.test == "mid-p McNemar" and own.ci95 is not None:
            low, high = proportion_confint(own.score * own.n, own.n, 0.05, method="wilson")
            if max(abs(low - own.ci95[0]), abs(high - own.ci95[1])) > 1e-6:
                yield "interval", f"{where}.ci95", f"is not Wilson's, {low:g} to {high:g}"


def _probe_faults(arm: Arm) -> Iterator[Fault]:
    variant = get_variant(arm.variant)
    moved = any(p.gained or p.lost for w, p in _comparisons(arm) if "generalization" not in w)
    if arm.equal_to_base == moved:
        words = "is true, but answers changed" if moved else "is false, but no answer changed"
        yield "sham", "equal_to_base", words
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
    """Holm's adjustment in every family of a run (`runs.generalization.FAMILIES`)."""
    for where, rows in _families(arms):
        family = [(arm, row) for arm, row in rows if row is not None]
        family = [(arm, row) for arm, row in family if row.p_adjusted is not None]
        expected = holm([row.p_value for _, row in family if row is not None])
        for (arm, row), p in zip(family, expected, strict=True):
            if not math.isclose(row.p_adjusted or 0.0, p, rel_tol=1e-6, abs_tol=1e-12):
                words = f"is {row.p_adjusted:g}; Holm over {len(family)} of them gives {p:g}"
                yield arm, ("adjustment", f"{where}.p_adjusted", words)


def _families(arms: Sequence[Arm]) -> Iterator[tuple[str, list[tuple[Arm, Paired | None]]]]:
    yield "target_result", [(arm, arm.target_result) for arm in arms]
    yield "non_target_result", [(arm, arm.non_target_result) for arm in arms]
    for name in ("over_placebo", "specificity"):
        rows = [(arm, getattr(arm.generalization, name)) for arm in arms]
        yield f"generalization.{name}", rows
    for arm in arms:
        yield "domains[*]", [(arm, row) for row in arm.domains]


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _NEAR * max(1.0, abs(one), abs(other))
