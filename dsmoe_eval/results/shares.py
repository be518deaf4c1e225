"""The share of the best profile's gain that each steering arm reaches, on the items of its target.

The best profile found is the learned one. Its gain counts where there is one over base, above that
of each of its controls: learned on shuffled answers, for another domain, and on the answers of all
targets.
"""

from __future__ import annotations

import pandas as pd

from ..cards import ExpertSource
from ..stats import ratio_of_gains
from ..variants import controls_for, get_variant
from .arms import Arm
from .finished import FinishedRun
from .gains import PrimaryOutcome, gain_items, pair_gains
from .outcomes import OutcomeDifference
from .paired import Paired
from .schema import RunResult
from .terms import ShareOfBest

BEST_CONTROLS: dict[str, ExpertSource] = {
    "over_placebo": "random_matched",
    "specificity": "other_domain",
    "over_pooled": "all_domains",
}
"""The comparisons of a learned profile with its controls -> the source of their shifts."""

_ENDINGS = {"over_placebo": "shuffled", "specificity": "wrong", "over_pooled": "pooled"}


def best_profile(result: RunResult) -> str | None:
    """Return the first learned profile of a run, the best profile found; None without one."""
    variants = map(get_variant, result.variants)
    found = (one.name for one in variants if one.kind == "learned" and one.family == "arms"
             and one.quantized is None)  # fmt: skip
    return next(found, None)


def over_controls(arm: Arm, result: RunResult) -> dict[str, Paired | OutcomeDifference | None]:
    """Return a learned profile's comparisons with its controls, by the primary outcome."""
    own = arm if result.outcome == "score" else arm.outcome(result.outcome)
    return {name: getattr(own, name, None) for name in BEST_CONTROLS}


def gain_of(arm: Arm, outcome: PrimaryOutcome) -> float | None:
    """Return an arm's gain on its target by an outcome; None where it has none."""
    if outcome == "score":
        return arm.target_result.delta
    own = arm.outcome(outcome)
    return None if own is None or own.target is None else own.target.gain


def change_of(row: Paired | OutcomeDifference) -> float:
    """Return the change for the better of a comparison."""
    return row.delta if isinstance(row, Paired) else row.gain


def beaten(row: Paired | OutcomeDifference, result: RunResult) -> bool:
    """Return whether a comparison is a gain after Holm's correction."""
    is_shown = row.p_adjusted is not None and row.p_adjusted <= result.significance_level
    return is_shown and change_of(row) > 0


def unbeaten(arm: Arm, result: RunResult) -> list[str]:
    """Return the names of a learned profile's controls that it does not beat on its target."""
    among = [get_variant(name) for name in result.variants]
    return [
        control.name
        for name, row in over_controls(arm, result).items()
        if row is not None and not beaten(row, result)
        for control in controls_for(get_variant(arm.variant), BEST_CONTROLS[name], among)
    ]


def with_shares(run: FinishedRun) -> RunResult:
    """Return a run's result with the share of the best profile's gain of each steering arm."""
    best = best_profile(run.result)
    if best is None:
        return run.result
    arms = [
        arm.model_copy(update={"share_of_best": _share(run, arm, run.arms[best, arm.target])})
        if _is_steering(arm)
        else arm
        for arm in run.result.arms
    ]
    for arm in arms:
        arm.judge(run.result.levels)
    return run.result.model_copy(update={"arms": tuple(arms)})


def _is_steering(arm: Arm) -> bool:
    variant = get_variant(arm.variant)
    is_own = variant.kind != "learned" and variant.quantized is None
    return variant.has_profile and is_own and variant.family == "arms"


def _share(run: FinishedRun, arm: Arm, best: Arm) -> ShareOfBest:
    reason = _fault(best, run.result)
    if reason:
        return ShareOfBest(best=best.variant, share=None, ci95=None, reason=reason)
    items = [_items(run, one) for one in (arm, best)]
    paired = None if items[0] is None or items[1] is None else pair_gains(items[0], items[1])
    if paired is None:
        reason = "the target's items have no such outcome"
        return ShareOfBest(best=best.variant, share=None, ci95=None, reason=reason)
    columns = ("a_now", "b_now", "b_then", "cluster_now")
    found = ratio_of_gains(*(paired[name].to_numpy() for name in columns))
    unbounded = f"the gain of {best.variant} is too uncertain for an interval"
    return ShareOfBest(
        best=best.variant,
        share=found.value,
        ci95=found.ci95,
        reason="" if found.ci95 else unbounded,
    )


def _items(run: FinishedRun, arm: Arm) -> pd.DataFrame | None:
    return gain_items(run, (arm.variant, arm.target), "target", run.result.outcome)


def _fault(best: Arm, result: RunResult) -> str:
    """Return why a share of this profile's gain is not defined; empty if it is."""
    rows = over_controls(best, result)
    missing = [f"{best.variant}+{_ENDINGS[name]}" for name, row in rows.items() if row is None]
    if missing:
        return f"{best.variant} lacks a control in the plan ({', '.join(missing)})"
    if names := unbeaten(best, result):
        return f"{best.variant} is not above {', '.join(names)}"
    gain = gain_of(best, result.outcome)
    return "" if gain is None or gain > 0 else f"{best.variant} gains nothing over base"
