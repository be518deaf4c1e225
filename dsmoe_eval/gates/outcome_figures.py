"""The figures of outcomes other than the score that a policy's rules may be about."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..cards import OUTCOMES
from ..results.arms import Arm
from ..results.finished import FinishedRun, Key
from ..results.outcomes import OutcomeDifference, OutcomeResult
from .readings import Claims, Measurement, MissingFigureError, Reading

Reader = Callable[[FinishedRun, Key], Reading]
_LACKING = {
    "target": "no task of the target has it",
    "non_targets": "no non-target task has it",
    "over_placebo": "the plan has no placebo of this arm, or no task of the target has it",
}


def _row(arm: Arm, outcome: str, place: str) -> OutcomeDifference:
    result: OutcomeResult | None = arm.outcome(outcome)
    if result is None:
        raise MissingFigureError(f"no task of the run has the outcome {outcome}")
    row: OutcomeDifference | None = getattr(result, place)
    if row is None:
        raise MissingFigureError(f"{outcome}: {_LACKING[place]}")
    return row


def _gain(outcome: str, place: str) -> Reader:
    """Return a reader of a gain and its interval, whose lower end is at most the plan's bound."""

    def read(run: FinishedRun, key: Key) -> Reading:
        row = _row(run.arms[key], outcome, place)
        if row.ci95 is None:
            raise MissingFigureError(f"{outcome}: no interval, since all items are one cluster")
        low, high = row.ci95
        bound = None if row.non_inferiority is None else row.non_inferiority.lower_bound
        return Measurement(row.gain, low if bound is None else min(low, bound), high)

    return read


def _claim(outcome: str, place: str) -> Reader:
    def read(run: FinishedRun, key: Key) -> Reading:
        said = _row(run.arms[key], outcome, place).claim
        if said is None:
            raise MissingFigureError(f"{outcome}: {place}.claim is missing")
        return Claims(((said.verdict, said.words),))

    return read


OF_OUTCOMES: Mapping[str, Reader] = {
    f"{outcome}.{metric}": make(outcome, place)
    for outcome in OUTCOMES
    if outcome != "score"
    for metric, make, place in (
        ("target_claim", _claim, "target"),
        ("non_target_claim", _claim, "non_targets"),
        ("placebo_claim", _claim, "over_placebo"),
        ("target_gain", _gain, "target"),
        ("non_target_change", _gain, "non_targets"),
        ("gain_over_placebo", _gain, "over_placebo"),
    )
}
"""Metric -> its reader; a gain is a change for the better, in the outcome's unit."""
