"""Stored figures of one arm that must fit each other; what follows from others is not stored.

A file is written by a program and may be edited by a hand: tests and intervals of right or wrong
answers are computed again from their counts, and what several files repeat must be alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from scipy.special import ndtr
from statsmodels.stats.proportion import proportion_confint

from ..results.arms import Arm
from ..results.outcomes import OVER, OutcomeDifference
from ..results.paired import BINARY_TEST, Answers, NonInferiority, Paired, Rates
from ..results.schema import Base
from ..stats import PairedCounts, holm, mcnemar_midp, smallest_effect, tango_interval, tango_z
from ..variants import get_variant
from .outcome_consistency import (
    NEAR,
    Fault,
    arms_and_controls,
    outcome_families,
    outcome_faults,
)

_interval = lru_cache(maxsize=4096)(tango_interval)  # a comparison and its bound share one


def arm_faults(arm: Arm, base: Mapping[str, Base]) -> Iterator[Fault]:
    """Yield what does not fit in an arm's figures.

    Args:
        arm: the submitted one.
        base: base's rows by task.
    """
    for where, paired in arm.comparisons.items():
        yield from _paired_faults(where, paired)
        yield from _claim_faults(where, paired, get_variant(arm.variant).zero_strength)
        if paired.non_inferiority is not None:
            yield from _held_faults(where, paired, paired.non_inferiority)
    yield from _power_faults(arm.target_result)
    yield from _base_faults(arm, base)
    yield from _probe_faults(arm)
    yield from outcome_faults(arm)


def _paired_faults(where: str, paired: Paired) -> Iterator[Fault]:
    low, high = paired.ci95
    if not low - NEAR <= paired.delta <= high + NEAR:
        yield "interval", f"{where}.ci95", f"excludes its estimate {paired.delta:g}"
    if paired.gained + paired.lost > paired.n or paired.clusters > paired.n:
        yield "counts", f"{where}.n", f"{paired.n} items cannot gain, lose or cluster so often"
    if paired.test == BINARY_TEST:
        yield from _binary_faults(where, paired)


def _binary_faults(where: str, paired: Paired) -> Iterator[Fault]:
    """Check figures of single right or wrong answers, which all follow from four counts."""
    right = paired.score_a * paired.n
    try:
        counts = PairedCounts(paired.n, round(right), paired.gained, paired.lost)
    except ValueError as error:
        yield "counts", where, str(error)
        return
    if paired.clusters != paired.n:
        yield "counts", f"{where}.clusters", "are not the items, though each stands alone"
    if abs(right - round(right)) > 1e-4 or not _near(paired.score_b, counts.score_b):
        words = f"{counts.right_a} right, {paired.gained} gained and {paired.lost} lost"
        yield "counts", where, f"{words} make {counts.score_b:g}"
        return
    p_value = mcnemar_midp(paired.gained, paired.lost)
    if not math.isclose(paired.p_value, p_value, rel_tol=1e-6, abs_tol=1e-12):
        yield "p-value", f"{where}.p_value", f"is {paired.p_value:g}; its counts give {p_value:g}"
    low, high = _interval(counts, 0.95)
    if max(abs(low - paired.ci95[0]), abs(high - paired.ci95[1])) > 1e-5:
        yield "interval", f"{where}.ci95", f"is not the one of its counts, {low:g} to {high:g}"


def _power_faults(paired: Paired) -> Iterator[Fault]:
    """Check the target's smallest effect, which decides a mark; the others would take long."""
    if paired.test != BINARY_TEST or paired.flipped > 1:
        return
    found = smallest_effect(paired.n, paired.flipped)
    given = math.nan if paired.mde80 is None else paired.mde80
    if math.isnan(found) != math.isnan(given) or abs(found - given) > 1e-5:
        yield "power", "target_result.mde80", f"is {paired.mde80}; its counts give {found:g}"


def _claim_faults(where: str, paired: Paired, null: bool) -> Iterator[Fault]:
    if null and paired.p_adjusted is not None:
        yield "claim", where, "claims something, which a null arm must not"
    elif not null and paired.p_adjusted is None:
        yield "claim", where, "lacks its adjusted p-value, and so its claim"


def _held_faults(where: str, paired: Paired, held: NonInferiority) -> Iterator[Fault]:
    where = f"{where}.non_inferiority"
    if held.lower_bound > paired.delta + NEAR:
        yield "non-inferiority", f"{where}.lower_bound", "is above its estimate"
    if held.non_inferior != (held.lower_bound > -held.margin):
        words = f"is {held.lower_bound:g}, and the p-value {held.p_value:g}"
        yield "non-inferiority", f"{where}.lower_bound", words
    if paired.test == BINARY_TEST:
        yield from _score_test_faults(where, paired, held)


def _score_test_faults(where: str, paired: Paired, held: NonInferiority) -> Iterator[Fault]:
    try:
        right = round(paired.score_a * paired.n)
        counts = PairedCounts(paired.n, right, paired.gained, paired.lost)
    except ValueError:
        return  # told of the comparison
    p_value = float(ndtr(-tango_z(counts, -held.margin)))
    bound = _interval(counts, round(1 - 2 * held.significance_level, 12))[0]
    if not math.isclose(held.p_value, p_value, rel_tol=1e-6, abs_tol=1e-12):
        words = f"is {held.p_value:g}; its counts give {p_value:g}"
        yield "non-inferiority", f"{where}.p_value", words
    if abs(held.lower_bound - bound) > 1e-5:
        words = f"is {held.lower_bound:g}; its counts give {bound:g}"
        yield "non-inferiority", f"{where}.lower_bound", words


def _base_faults(arm: Arm, base: Mapping[str, Base]) -> Iterator[Fault]:
    """Check that base's scores and answers are those that the arm was compared with."""
    rows: dict[str, Paired] = {row.task: row for row in arm.domains}
    for task, row in (rows | {arm.target_task: arm.target_result}).items():
        if task not in base:
            yield "vanished-task", f"cells[{task}]", "base has no score of this task"
            continue
        own, where = base[task], f"base[{task}]"
        if own.n != row.n or not _near(own.score, row.score_a):
            yield "base", where, f"{own.score:g} of {own.n} is not the arm's"
        if row.test == BINARY_TEST and own.ci95 is not None:
            low, high = proportion_confint(own.score * own.n, own.n, 0.05, method="wilson")
            if max(abs(low - own.ci95[0]), abs(high - own.ci95[1])) > 1e-6:
                yield "interval", f"{where}.ci95", f"is not Wilson's, {low:g} to {high:g}"
        if row.answers is not None:
            yield from _answer_faults(f"answers[{task}]", row, row.answers, own.answers)


def _answer_faults(where: str, row: Paired, own: Answers, base: Rates | None) -> Iterator[Fault]:
    whole, samples = own.both_whole, 1 if base is None else base.samples or 1
    if own.n != row.n or whole.n > own.n or own.count != own.n * samples:
        yield "answers", f"{where}.n", f"{own.n} items were generated and {row.n} answered"
    if (whole.delta is None) != (whole.n == 0):
        yield "answers", f"{where}.both_whole", "has a change of no item, or none of some"
    elif whole.n == row.n and not _near(whole.delta or 0.0, row.delta):
        yield "answers", f"{where}.both_whole.delta", "is of all items, and not their change"
    if base is None or not _same_rates(own.a, base):
        yield "answers", f"{where}.a", "is not what base's answers took"


def _same_rates(one: Rates, other: Rates) -> bool:
    return all(
        _near(getattr(one, name), getattr(other, name))
        for name in ("mean_tokens", "truncated", "invalid")
    )


def _probe_faults(arm: Arm) -> Iterator[Fault]:
    variant = get_variant(arm.variant)
    if not variant.has_profile:
        return
    if arm.probe is None or arm.profile is None:
        yield "probe", "probe", "a steered arm has probes and a profile"
    elif arm.probe.null_max_difference != 0:
        yield "probe", "probe.null_max_difference", "strength zero must change nothing"
    elif arm.probe.logit_max_change == 0 and variant.must_act:
        yield "probe", "probe.logit_max_change", "the profile moved nothing"


def adjustment_faults(arms: Sequence[Arm]) -> Iterator[tuple[Arm, Fault]]:
    """Yield where Holm's adjustment is wrong in a family of a run (`results.schema.FAMILIES`)."""
    families: list[tuple[str, Sequence[tuple[Arm, Paired | OutcomeDifference]]]] = [
        *_families(arms),
        *outcome_families(arms),
    ]
    for where, rows in families:
        family = [(arm, row, row.p_adjusted) for arm, row in rows if row.p_adjusted is not None]
        expected = holm([row.p_value for _, row, _ in family])
        for (arm, _, given), p in zip(family, expected, strict=True):
            if not math.isclose(given, p, rel_tol=1e-6, abs_tol=1e-12):
                words = f"is {given:g}; Holm over {len(family)} of them gives {p:g}"
                yield arm, ("adjustment", f"{where}.p_adjusted", words)


def _families(arms: Sequence[Arm]) -> Iterator[tuple[str, list[tuple[Arm, Paired]]]]:
    for name in ("target_result", "non_target_result", *OVER):
        for kind in arms_and_controls(arms):
            yield name, [(arm, arm.comparisons[name]) for arm in kind if name in arm.comparisons]
    for arm in arms:
        yield "domains[*]", [(arm, row) for row in arm.domains]


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * max(1.0, abs(one), abs(other))
