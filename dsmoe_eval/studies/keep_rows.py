"""The rows of keep-k curves: outcomes of pruned models beside base and random pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..stats import PairedResult, compare_paired, compare_with_draws
from .results import Interval

ALL, RANDOM = "all domains", "random"
"""The names of the row of all items, and of the control."""
OutcomeKind = Literal["score", "gold_logprob"]
KINDS: tuple[OutcomeKind, ...] = ("score", "gold_logprob")
Floats = NDArray[np.float64]


class KeptFigures(TypedDict):
    """One outcome of a pruned model, the mean over items.

    Attributes:
        value: the mean; of the control the mean over draws.
        change: less base's.
        change_ci95: its interval, for new items; of the control for new draws, too.
        over_random: the mean less that of the control; None of the control.
        over_random_ci95: its interval, for new items and new draws.
    """

    value: float
    change: float
    change_ci95: Interval | None
    over_random: float | None
    over_random_ci95: Interval | None


class KeepRow(TypedDict):
    """A domain's answers by a model whose layers keep some of their experts.

    Attributes:
        domain: the domain, or `ALL`.
        method: the method that ranked the experts, or `RANDOM`.
        kept: number of experts that each layer keeps.
        share: the same as a share.
        exposure_kept: share of base's expert selections that falls on those that are kept.
        items: number of items.
        score: the score.
        gold_logprob: the log-probability of the right option, in nats; None without options.
    """

    domain: str
    method: str
    kept: int
    share: float
    exposure_kept: float
    items: int
    score: KeptFigures
    gold_logprob: KeptFigures | None


class KeepBase(TypedDict):
    """What base scores on a domain."""

    domain: str
    items: int
    score: float
    gold_logprob: float | None


class KeepResult(TypedDict):
    """The content of `keep.json`.

    Attributes:
        left_out: tasks of the role without identification text.
        spared: [layer, expert] of super experts, which every model keeps first.
    """

    model: str
    fingerprint: str
    dtype: str
    device: str
    suite: str
    role: str
    items: int | None
    seed: int
    layers: list[int]
    experts: int
    top_k: int
    methods: list[str]
    draws: int
    left_out: list[str]
    spared: list[list[int]]
    base: list[KeepBase]
    rows: list[KeepRow]


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcomes of the items of a domain, or of all.

    Attributes:
        outcomes: kind -> [items]; a kind that some item lacks is missing.
        clusters: kind -> the cluster of each of these items.
    """

    outcomes: Mapping[OutcomeKind, Floats]
    clusters: Mapping[OutcomeKind, tuple[str, ...]]

    def mean(self, kind: OutcomeKind) -> float | None:
        """Return the mean of an outcome; None where there is none."""
        return float(self.outcomes[kind].mean()) if kind in self.outcomes else None


def pooled(parts: Sequence[Answered]) -> Answered:
    """Return the outcomes of several domains as those of one, kind by kind."""
    outcomes: dict[OutcomeKind, Floats] = {}
    clusters: dict[OutcomeKind, tuple[str, ...]] = {}
    for kind in KINDS:
        having = [part for part in parts if kind in part.outcomes]
        if having:
            outcomes[kind] = np.concatenate([part.outcomes[kind] for part in having])
            clusters[kind] = tuple(name for part in having for name in part.clusters[kind])
    return Answered(outcomes, clusters)


def base_row(domain: str, base: Answered) -> KeepBase:
    """Return what base scores on a domain."""
    score = base.mean("score")
    assert score is not None  # noqa: S101 - every item has one
    return {
        "domain": domain,
        "items": len(base.outcomes["score"]),
        "score": score,
        "gold_logprob": base.mean("gold_logprob"),
    }


@dataclass(frozen=True, slots=True)
class Kept:
    """A pruned model's answers to a domain.

    Attributes:
        method: the method that ranked the experts, or `RANDOM`.
        kept: number of experts that each layer keeps.
        share: the same as a share.
        exposure_kept: see `KeepRow`.
        draws: the answers, of the control one per draw, else a single one.
    """

    method: str
    kept: int
    share: float
    exposure_kept: float
    draws: tuple[Answered, ...]


def keep_row(domain: str, model: Kept, base: Answered, control: Kept | None) -> KeepRow:
    """Compare a pruned model with base and with the control, on the same items.

    Args:
        domain: the domain, or `ALL`.
        model: its answers.
        base: those of base.
        control: those of random pruning to the same number; None for the control.
    """
    score = _figures("score", model, base, control)
    assert score is not None  # noqa: S101 - every item has one
    return {
        "domain": domain,
        "method": model.method,
        "kept": model.kept,
        "share": model.share,
        "exposure_kept": model.exposure_kept,
        "items": len(base.outcomes["score"]),
        "score": score,
        "gold_logprob": _figures("gold_logprob", model, base, control),
    }


def _figures(
    kind: OutcomeKind, model: Kept, base: Answered, control: Kept | None
) -> KeptFigures | None:
    if kind not in base.outcomes:
        return None
    before, clusters = base.outcomes[kind], base.clusters[kind]
    draws = np.stack([one.outcomes[kind] for one in model.draws])
    changed = _less(before, draws, clusters)
    over = None
    if control is not None:
        others = np.stack([one.outcomes[kind] for one in control.draws])
        over = compare_with_draws(others, draws[0], clusters)
    return {
        "value": float(draws.mean()),
        "change": 0.0 - changed.delta,
        "change_ci95": _turned(changed),
        "over_random": None if over is None else over.delta,
        "over_random_ci95": None if over is None or math.isnan(over.ci95[0]) else over.ci95,
    }


def _less(base: Floats, draws: Floats, clusters: Sequence[str]) -> PairedResult:
    """Compare base with the mean of draws; of one draw this is the comparison of two systems."""
    if len(draws) == 1:
        return compare_paired(draws[0], base, clusters)
    return compare_with_draws(draws, base, clusters)


def _turned(result: PairedResult) -> Interval | None:
    """Return the interval of the opposite difference."""
    low, high = result.ci95
    return None if math.isnan(low) else (0.0 - high, 0.0 - low)
