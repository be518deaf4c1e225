"""The choice of an arm's number of experts or layers, and strength, on the tuning split only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cards import Plan, Unit
from ..stats import non_inferiority
from ..variants import Settings

Scores = Mapping[str, NDArray[np.float64]]
"""Task name -> the primary outcome of each item, more is better."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting on the tuning split, against base.

    Attributes:
        target_delta: change of the target's primary outcome.
        non_target_delta: change of that of the pooled non-targets.
        lower_bound: the one-sided lower bound of `non_target_delta`. If all items are one cluster:
            -1, the bound of any change of a score; None for an outcome without bounds.
        qualified: whether the lower bound is above minus the margin.
        unit: the strength's unit.
    """

    expert_count: int
    strength: float
    target_delta: float
    non_target_delta: float
    lower_bound: float | None
    qualified: bool
    unit: Unit = "odds"
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings that were scored, and the choice.

    Attributes:
        qualified: whether any setting qualified.
        unavailable: the sizes of E* that the method cannot name on this model; they are not tried.
    """

    trials: tuple[Trial, ...]
    chosen: Settings
    qualified: bool
    unavailable: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the content of the run's file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Tuned:
        """Read the content of the run's file."""
        trials = tuple(Trial(**_in_tuples(trial)) for trial in value["trials"])
        unavailable = tuple(value["unavailable"])
        chosen = Settings(**_in_tuples(value["chosen"]))
        return cls(trials, chosen, value["qualified"], unavailable)


def _in_tuples(content: dict[str, Any]) -> dict[str, Any]:
    """Turn lists, which JSON has instead of tuples, into tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def tune(
    plan: Plan,
    grid: Sequence[Settings],
    base: Scores,
    target_task: str,
    non_targets: Sequence[str],
    scores_at: Callable[[Settings], Scores],
    clusters: Mapping[str, Sequence[str]],
) -> Tuned:
    """Score every setting of the grid and choose by the plan's rule (see `cards.Tuning`).

    Args:
        plan: the plan, with its primary outcome, that one's margin and the significance level.
        grid: the settings.
        base: the scores of base on the tuning split.
        target_task: the task whose gain counts.
        non_targets: the tasks whose scores must not drop.
        scores_at: the function that returns the scores of a setting.
        clusters: task name -> the clusters of its items, as for `compare_paired`.
    """
    labels = np.concatenate([clusters[name] for name in non_targets])
    pooled = np.concatenate([base[name] for name in non_targets])
    margin, level = plan.margin_of(plan.outcome), plan.significance_level / 2
    trials = []
    for settings in grid:
        scores = scores_at(settings)
        steered = np.concatenate([scores[name] for name in non_targets])
        held = non_inferiority(pooled, steered, margin, level, labels)
        trials.append(
            Trial(
                expert_count=settings.expert_count,
                strength=settings.strength,
                target_delta=float(scores[target_task].mean() - base[target_task].mean()),
                non_target_delta=held.delta,
                lower_bound=_bound(plan, held.lower_bound),
                qualified=held.non_inferior,
                unit=settings.unit,
                layers=settings.layers,
            )
        )
    return choose(trials)


def _bound(plan: Plan, bound: float) -> float | None:
    """Return a lower bound; NaN, of one cluster, is none."""
    if plan.outcome == "score":
        return max(-1.0, bound)
    return None if math.isnan(bound) else bound


def choose(trials: Sequence[Trial]) -> Tuned:
    """Choose the best target gain among the qualified; ties go to the weaker setting."""
    qualified = [trial for trial in trials if trial.qualified]
    if qualified:
        best = min(qualified, key=lambda trial: (-trial.target_delta, *_weight(trial)))
    else:
        best = min(trials, key=_weight)
    chosen = Settings(best.expert_count, best.strength, best.unit, layers=best.layers)
    return Tuned(tuple(trials), chosen, bool(qualified))


def _weight(trial: Trial) -> tuple[int, int, float]:
    """Return by what settings are ordered: experts, then layers, then strength."""
    return trial.expert_count, len(trial.layers), trial.strength
