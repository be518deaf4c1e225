"""Ranks that respect noise, and the marks of trust that a result has earned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..gates.figures import read_figure
from ..gates.readings import Check, Claims, Measurement, MissingFigureError
from ..results.arms import Arm
from ..results.finished import FinishedRun, Key
from ..results.paired import Paired
from ..results.schema import Base
from ..variants import BASE, controls_for, get_variant
from .entries import SubmittedRun

POWER = 0.1
"""Fraction: a result has adequate power if every target could have shown a smaller effect."""

_SHAM: tuple[str, Key | None] = ("sham_equals_base", None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over targets with its 95 % interval. Fractions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark of trust: whether it was earned, and by which figure."""

    name: str
    earned: bool
    words: str


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """A row of a ranking: one variant of one model, over all its targets.

    Attributes:
        submitted: the run.
        model: its name; see `model_names`.
        variant: its name; base has a row too.
        rank: 1 plus how many ranked rows are better beyond noise; None where it is not ranked.
        unranked: why it is not; empty where it is.
        over_placebo: mean gain over its placebo; None without a placebo on every target.
        gain: mean gain over base.
        non_target: change of the pooled non-targets, mean over targets.
        non_inferior: whether the pooled non-targets are non-inferior for every target.
        by_domain: gain over base by target.
        marks: of trust.
        learned_from: what its arms learned from; variants for which it differs are not on equal
            terms.
    """

    submitted: SubmittedRun
    model: str
    variant: str
    rank: int | None
    unranked: str
    over_placebo: Estimate | None
    gain: Estimate | None
    non_target: Estimate | None
    non_inferior: bool
    by_domain: Mapping[str, Paired]
    marks: tuple[Mark, ...]
    learned_from: str

    @property
    def trusted(self) -> bool:
        """Every mark was earned; base needs none."""
        return all(mark.earned for mark in self.marks)


def model_names(submitted_runs: Sequence[SubmittedRun]) -> dict[Path, str]:
    """Name the model of each folder, with its revision if a suite has several of it."""
    folders = {submitted.folder for submitted in submitted_runs}

    def name(folder: Path) -> str:
        model = folder.parent.name.replace("__", "/")
        several = sum(other.parent == folder.parent for other in folders) > 1
        return f"{model} ({folder.name[:7]})" if several else model

    return {folder: name(folder) for folder in folders}


def latest(submitted_runs: Sequence[SubmittedRun]) -> dict[tuple[Path, str], SubmittedRun]:
    """Return the last run of each revision and variant, base too; whole runs before smoke tests."""
    found: dict[tuple[Path, str], SubmittedRun] = {}
    for submitted in submitted_runs:
        for variant in submitted.results:
            before = found.get((submitted.folder, variant))
            if before is None or before.header.smoke_test or not submitted.header.smoke_test:
                found[submitted.folder, variant] = submitted
    return found


def rank(submitted_runs: Sequence[SubmittedRun]) -> list[LeaderboardRow]:
    """Rank the variants of one suite, best first; then what is not ranked; base rows last.

    The order is that of the mean gain over placebo. A rank is 1 plus the number of rows that are
    better beyond noise: the 95 % interval of the difference is above zero, computed from the two
    intervals as if they were independent, which is wide for variants of one model (MOVER: Zou and
    Donner 2008, Statistics in Medicine 27:1693). Rows without a placebo, and rows
    whose non-targets are not shown non-inferior, are not ranked.
    """
    shown, models = latest(submitted_runs), model_names(submitted_runs)
    rows = [
        _row(submitted, models[submitted.folder], name, submitted_runs)
        for (_, name), submitted in shown.items()
        if name != BASE and not get_variant(name).zero_strength
    ]
    ranked = sorted((row for row in rows if not row.unranked), key=_key, reverse=True)
    placed = [_placed(row, ranked) for row in ranked]
    others = sorted((row for row in rows if row.unranked), key=_key, reverse=True)
    return [
        *placed,
        *others,
        *(
            LeaderboardRow(
                one, models[one.folder], BASE, None, "base", None, None, None, True, {}, (), ""
            )
            for (_, name), one in shown.items()
            if name == BASE
        ),
    ]


def _key(row: LeaderboardRow) -> tuple[bool, float]:
    estimate = row.over_placebo or row.gain
    return row.over_placebo is not None, -math.inf if estimate is None else estimate.value


def _placed(row: LeaderboardRow, ranked: Sequence[LeaderboardRow]) -> LeaderboardRow:
    own = row.over_placebo
    assert own is not None  # noqa: S101 - for the type checker; ranked rows have one
    better = sum(
        other.over_placebo is not None and is_better(other.over_placebo, own) for other in ranked
    )
    return replace(row, rank=1 + better)


def is_better(one: Estimate, other: Estimate) -> bool:
    """Return whether the lower end of the difference's interval is above zero."""
    reach = math.hypot(one.value - one.low, other.high - other.value)
    return one.value - other.value - reach > 0


def _row(
    submitted: SubmittedRun, model: str, variant: str, every: Sequence[SubmittedRun]
) -> LeaderboardRow:
    arms = [arm for (name, _), arm in submitted.arms.items() if name == variant]
    placebos = [arm.generalization.over_placebo for arm in arms]
    over = mean_of([one for one in placebos if one is not None]) if all(placebos) else None
    non_inferior = all(_held(arm) for arm in arms)
    reasons = {
        "a control": any(arm.control_of for arm in arms),
        "a smoke test": submitted.header.smoke_test,
        "no placebo": over is None,
        "non-targets not shown non-inferior": not non_inferior,
    }
    return LeaderboardRow(
        submitted=submitted,
        model=model,
        variant=variant,
        rank=None,
        unranked=next((words for words, applies in reasons.items() if applies), ""),
        over_placebo=over,
        gain=mean_of([arm.target_result for arm in arms]),
        non_target=mean_of([arm.non_target_result for arm in arms], independent=False),
        non_inferior=non_inferior,
        by_domain={arm.target: arm.target_result for arm in arms},
        marks=trust_marks(submitted, variant, every),
        learned_from="; ".join(dict.fromkeys(arm.information.words for arm in arms)),
    )


def _held(arm: Arm) -> bool:
    found = arm.non_target_result.non_inferiority
    return found is not None and found.non_inferior


def mean_of(results: Sequence[Paired], independent: bool = True) -> Estimate | None:
    """Average differences, with an interval.

    Args:
        results: one per target; None comes back where there is none.
        independent: of different items, so that intervals add as squares (MOVER); else, as for
            non-targets that targets share, their reaches are averaged, which is never too narrow.
    """
    if not results:
        return None
    value = sum(row.delta for row in results) / len(results)
    down, up = ([abs(row.ci95[end] - row.delta) for row in results] for end in (0, 1))
    total = math.hypot if independent else lambda *reaches: sum(reaches)
    return Estimate(value, value - total(*down) / len(results), value + total(*up) / len(results))


def trust_marks(
    submitted: SubmittedRun, variant: str, every: Sequence[SubmittedRun]
) -> tuple[Mark, ...]:
    """Return the marks of a variant in a run, each with the figure that decides it.

    Args:
        submitted: the run.
        variant: one of its variants.
        every: all runs of the suite, to count seeds.
    """
    run = submitted.run
    keys = [(variant, target) for target in submitted.header.targets]
    return (
        _mark("probes passed", run, [*(("probes_passed", k) for k in keys), _SHAM]),
        _placebo_mark(run, keys),
        _mark("no leakage", run, [("leaked_items", None)]),
        _mark("adequate power", run, [("target_mde80", key) for key in keys]),
        _seeds_mark(submitted, variant, every),
        _complete_mark(submitted),
    )  # fmt: skip


def _mark(name: str, run: FinishedRun, figures: Sequence[tuple[str, Key | None]]) -> Mark:
    words = []
    for metric, key in figures:
        try:
            found = read_figure(run, metric, key)
        except MissingFigureError as error:
            return Mark(name, False, str(error))
        if isinstance(found, Check):
            if not found.passed:
                return Mark(name, False, f"{metric}: {found.words}")
            words.append(found.words)
        elif isinstance(found, Measurement):
            most = 0.0 if metric == "leaked_items" else POWER
            if found.value > most:
                on = f" on {key[1]}" if key else ""
                return Mark(name, False, f"{metric}{on} is {found.value:.3g}, more than {most:g}")
            words.append(f"{metric} {found.value:.3g}")
    return Mark(name, True, "; ".join(dict.fromkeys(words)))


def _placebo_mark(run: FinishedRun, keys: Sequence[tuple[str, str]]) -> Mark:
    """Decide whether every placebo is flat: none improves or harms its target."""
    name = "placebo flat"
    placebos = controls_for(get_variant(keys[0][0]), "random_matched", run.variants)
    if not placebos:
        return Mark(name, False, "the run has no placebo of this arm")
    moved = []
    for placebo, (_, target) in itertools.product(placebos, keys):
        try:
            found = read_figure(run, "target_claim", (placebo.name, target))
        except MissingFigureError as error:
            return Mark(name, False, f"{placebo.name} on {target}: {error}")
        if isinstance(found, Claims) and found.said[0][0] in ("improves", "harms"):
            moved.append(f"{placebo.name} {found.said[0][0]} {target}")
    names = ", ".join(placebo.name for placebo in placebos)
    return Mark(name, not moved, "; ".join(moved) or f"no target is moved by {names}")


def _seeds_mark(submitted: SubmittedRun, variant: str, every: Sequence[SubmittedRun]) -> Mark:
    seeds = {
        one.header.seed
        for one in every
        if one.folder == submitted.folder and variant in one.results and not one.header.smoke_test
    }
    words = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
    return Mark("several seeds", len(seeds) > 1, words if seeds else "no whole run")


def _complete_mark(submitted: SubmittedRun) -> Mark:
    header = submitted.header
    missing = sorted(set(header.suite_targets) - set(header.targets))
    missing += sorted(set(header.suite_tasks) - {row.task for row in submitted.base})
    if header.smoke_test:
        return Mark("complete suite", False, f"a smoke test of {header.run.limit} items a task")
    words = f"lacks {', '.join(missing)}" if missing else f"all {len(header.suite_tasks)} tasks"
    return Mark("complete suite", not missing, words)


def base_of(submitted: SubmittedRun, target: str) -> Base:
    """Return base's row of a target's task."""
    (task,) = {arm.target_task for (_, name), arm in submitted.arms.items() if name == target}
    return next(row for row in submitted.base if row.task == task)
