"""The change of a run's figures since an earlier run of the same plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import pandas as pd

from ..errors import UserError
from ..results.finished import FinishedRun, Key
from ..results.gains import (
    Part,
    PrimaryOutcome,
    difference_of_gains,
    gain_changes,
    gain_items,
    pair_gains,
    primary_claim,
)
from .figures import read_figure
from .readings import Check, Claims, Measurement, MissingFigureError, Reading

CHANGING = ("target_gain", "non_target_change")
"""The figures whose change since an earlier run is known."""
KEPT = ("gain_difference", "gain_not_lost", "still_improves")
"""What is known of the arms that improved their target in the earlier run."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier run, and the changes since.

    Attributes:
        name: the source of the earlier run.
        changes: the change by metric and arm; or the reason why there is none.
    """

    name: str
    changes: Mapping[tuple[str, Key], Reading | str]

    def change(self, metric: str, key: Key) -> Reading:
        """Return this run's figure minus the earlier run's.

        Raises:
            MissingFigureError: one of the runs lacks it.
        """
        found = self.changes.get((metric, key), f"the baseline has no arm {key[0]} on {key[1]}")
        if isinstance(found, str):
            raise MissingFigureError(found)
        return found


def changes_since(run: FinishedRun, earlier: FinishedRun) -> Baseline:
    """Compare two runs of the same model and suite by `changes_between`.

    Raises:
        UserError: the earlier run is of another model or suite.
    """
    for key, now, before in (
        ("model", run.result.run.fingerprint, earlier.result.run.fingerprint),
        ("suite", run.result.suite, earlier.result.suite),
    ):
        if now != before:
            raise UserError(
                f"baseline {earlier.name} is of another {key}; give a run of the same one"
            )
    return changes_between(run, earlier)


def changes_between(run: FinishedRun, earlier: FinishedRun) -> Baseline:
    """Return the difference between two runs' changes from base, for every arm that both have.

    The comparison is item by item if both runs have the samples of the same items. Otherwise it
    comes from the two intervals, as if they were independent, by MOVER (Zou and Donner 2008,
    Statistics in Medicine 27:1693), which is wide if the items are the same. `Measurement.words`
    says which method was used.

    The figures of `KEPT` are about the arms that improved their target in the earlier run, by the
    primary outcome.
    """
    arms = run.arms.keys() & earlier.arms.keys()
    changes: dict[tuple[str, Key], Reading | str] = {}
    for arm in arms:
        for metric in CHANGING:
            try:
                changes[metric, arm] = _change(run, earlier, metric, arm)
            except MissingFigureError as error:
                changes[metric, arm] = str(error)
    return Baseline(earlier.name, changes | _kept(run, earlier, arms))


def _kept(
    run: FinishedRun, earlier: FinishedRun, arms: AbstractSet[Key]
) -> dict[tuple[str, Key], Reading | str]:
    """Return what became of the arms that improved their target in the earlier run."""
    outcome, before = run.result.outcome, earlier.result.outcome
    if outcome != before:
        why = f"the primary outcome is {outcome}, that of the baseline {before}"
        return {(metric, arm): why for metric in KEPT for arm in arms}
    worked = {arm for arm in arms if _improves(earlier, arm)}
    if not worked:
        nothing = Claims((("inconclusive", "no arm of the baseline improved its target"),))
        return {(metric, arm): nothing for metric in KEPT for arm in arms}
    lost = _lost(run, earlier)
    found: dict[tuple[str, Key], Reading | str] = {}
    for arm in arms:
        if arm not in worked:
            met = Check(True, "did not improve its target in the baseline, so nothing can be lost")
            found |= {(metric, arm): met for metric in KEPT}
            continue
        metric = "target_gain" if outcome == "score" else f"{outcome}.target_gain"
        try:
            found["gain_difference", arm] = _change(run, earlier, metric, arm)
        except MissingFigureError as error:
            found["gain_difference", arm] = str(error)
        found["gain_not_lost", arm] = lost.get(arm, "the two runs lack samples of the same items")
        said = primary_claim(run, arm)
        found["still_improves", arm] = (
            "nothing is claimed" if said is None else Claims(((said.verdict, said.words),))
        )
    return found


def _lost(run: FinishedRun, earlier: FinishedRun) -> dict[Key, Reading]:
    """Check that the gain of every arm is not lost; return nothing if items cannot be paired."""
    outcome, level = run.result.outcome, run.result.significance_level
    found: dict[Key, Reading] = {}
    for arm, change in (gain_changes(run, earlier, "target", outcome) or {}).items():
        other = run.arms[arm].outcome(outcome)
        margin = run.result.margin if other is None else other.margin
        words = (
            f"the gain changed by {change.result.delta:+.4f}, p = {change.p_adjusted:.4f} by Holm"
        )
        found[arm] = Check(not change.is_lost(level, margin), words)
    return found


def _improves(run: FinishedRun, arm: Key) -> bool:
    said = primary_claim(run, arm)
    return said is not None and said.verdict == "improves"


_ITEMS: Mapping[str, tuple[Part, PrimaryOutcome]] = {
    "target_gain": ("target", "score"),
    "non_target_change": ("non_targets", "score"),
    "gold_logprob.target_gain": ("target", "gold_logprob"),
}


def _change(run: FinishedRun, earlier: FinishedRun, metric: str, arm: Key) -> Measurement:
    now, before = (read_figure(one, metric, arm) for one in (run, earlier))
    if not isinstance(now, Measurement) or not isinstance(before, Measurement):
        raise TypeError(metric)
    items = [gain_items(one, arm, *_ITEMS[metric]) for one in (run, earlier)]
    if items[0] is None or items[1] is None:
        return _from_intervals(now, before, "by intervals: samples are missing")
    paired = pair_gains(items[0], items[1])
    if paired is None:
        return _from_intervals(now, before, "by intervals: the items are not the same")
    return _item_by_item(paired)


def _from_intervals(now: Measurement, before: Measurement, words: str) -> Measurement:
    ends = (now.low, now.high, before.low, before.high)
    low, high, low_then, high_then = (math.nan if end is None else end for end in ends)
    value = now.value - before.value
    down = math.hypot(max(0.0, now.value - low), max(0.0, high_then - before.value))
    up = math.hypot(max(0.0, high - now.value), max(0.0, before.value - low_then))
    return Measurement(value, value - down, value + up, words)


def _item_by_item(paired: pd.DataFrame) -> Measurement:
    if all((paired[f"{side}_now"] == paired[f"{side}_then"]).all() for side in "ab"):
        return Measurement(0.0, 0.0, 0.0, "item by item: every score is the same")
    found = difference_of_gains(paired)
    if math.isnan(found.ci95[0]):
        raise MissingFigureError("the items are one cluster, so nothing can be said of a change")
    words = f"item by item: {found.test}, p = {found.p_value:.4f}"
    return Measurement(found.delta, *found.ci95, words)
