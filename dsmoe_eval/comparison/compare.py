"""A comparison of two results from anywhere, item by item: by domain, pooled, and in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import UserError
from ..stats import (
    POINTS,
    PairedResult,
    Unit,
    claim,
    compare_paired,
    compare_strata,
    disagreement,
)
from .outcomes import Direction, direction_of
from .pairing import Pairs, Unpaired, pair
from .readers import Selection, Source, read_results

MARGIN = 0.02
"""The largest difference that does not matter, unless the user says otherwise."""
SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class DomainResult:
    """The comparison of one domain; `p_adjusted` is by Holm over domains."""

    domain: str
    result: PairedResult
    p_adjusted: float
    verdict: str
    words: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of B with the baseline A.

    Attributes:
        a: the name of source A, as the user gave it.
        b: the name of source B.
        pooled: the result of all items together.
        verdict: the verdict on the pool: improves, harms, equivalent, inconclusive; or mixed, where
            the pool does not describe domains that differ significantly.
        words: the verdict with its figures.
        domains: the results of each domain, sorted by name; empty if the sources name at most one.
        conflicting: one domain is significantly up and another significantly down.
        opposed: domains whose difference has the opposite sign of the pool's, significant or not.
        unpaired_a: the items of A left out.
        unpaired_b: the items of B left out.
        warnings: what the user should know.
        margin: as given, or the default of the metric.
        lower_is_better: whether lower levels are better; a difference is positive for the better.
    """

    a: str
    b: str
    pooled: PairedResult
    verdict: str
    words: str
    domains: tuple[DomainResult, ...]
    conflicting: bool
    opposed: tuple[str, ...]
    unpaired_a: Unpaired
    unpaired_b: Unpaired
    warnings: tuple[str, ...]
    margin: float
    lower_is_better: bool = False

    def to_dict(self) -> dict[str, object]:
        """Return the comparison for JSON, without NaN: what is not known is None."""
        return {
            "a": self.a,
            "b": self.b,
            **_figures(self.pooled),
            "verdict": self.verdict,
            "claim": self.words,
            "margin": self.margin,
            "lower_is_better": self.lower_is_better,
            "significance_level": SIGNIFICANCE_LEVEL,
            "unpaired": {"a": self.unpaired_a.n, "b": self.unpaired_b.n},
            "unpaired_items": {"a": asdict(self.unpaired_a), "b": asdict(self.unpaired_b)},
            "domains": [
                {
                    "domain": domain.domain,
                    **_figures(domain.result),
                    "p_adjusted": domain.p_adjusted,
                    "verdict": domain.verdict,
                    "claim": domain.words,
                }
                for domain in self.domains
            ],
            "conflicting": self.conflicting,
            "opposed": list(self.opposed),
            "warnings": list(self.warnings),
        }


def _figures(result: PairedResult) -> dict[str, object]:
    values: dict[str, object] = asdict(result)
    values["ci95"] = None if result.known_ci95 is None else list(result.ci95)
    values["mde80"] = result.known_mde80
    return values


def compare(
    a: Source,
    b: Source,
    selection: Selection | None = None,
    selection_b: Selection | None = None,
    margin: float | None = None,
    lower_is_better: bool = False,
) -> Comparison:
    """Compare B with the baseline A on the items that both have.

    Items are paired by content (question, options, right answer), or by the `id` of the selection;
    see `pairing.pair`. The test is chosen by the scores' shape (`stats.compare_paired`): mid-p
    McNemar for single binary items, else a t test of items or clusters. Claims about
    domains are adjusted by Holm.

    Args:
        a: as `readers.read_results`.
        b: the same.
        selection: columns, task, metric and filter where a format leaves them open.
        selection_b: the selection for B, if it differs.
        margin: two-sided, in units of the scores; an interval inside it is called equivalent. By
            default 0.02, or that of the metric in `cards.OUTCOMES`.
        lower_is_better: whether lower scores are better; metrics that are outcomes say so
            themselves.

    Raises:
        UserError: a source cannot be read, or the two cannot be paired.
    """
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"--margin is {margin}; give a fraction above 0, such as 0.02")
    selection = selection or Selection()
    results = read_results(a, selection), read_results(b, selection_b or selection)
    pairs = pair(*results, by_id=selection.id is not None)
    direction = direction_of(*results, lower_is_better)
    chosen = margin or direction.margin or MARGIN
    return _compared(results[0].source, results[1].source, pairs, chosen, direction)


def _compared(a: str, b: str, pairs: Pairs, margin: float, direction: Direction) -> Comparison:
    table = pairs.table
    sizes = None if table["size"].isna().any() else table["size"].to_numpy(np.float64)
    sides = table["score_a"].to_numpy(np.float64), table["score_b"].to_numpy(np.float64)
    scores = direction.ordered(*sides)
    clusters = _cluster_codes(table["cluster"])
    strata = None if table["domain"].isna().all() else table["domain"].fillna("").to_numpy(str)
    unit = direction.unit
    if unit is None and all(side.min() >= 0 and side.max() <= 1 for side in scores):
        unit = POINTS
    domains: tuple[DomainResult, ...] = ()
    if strata is None or len(np.unique(strata)) < 2:
        pooled, conflicting = compare_paired(*scores, clusters), False
    else:
        by_domain = compare_strata(*scores, strata, clusters, SIGNIFICANCE_LEVEL)
        pooled, conflicting = by_domain.pooled, by_domain.conflicting
        results = [
            direction.shown(one, None if sizes is None else sizes[strata == name])
            for name, one in zip(by_domain.strata, by_domain.results, strict=True)
        ]
        domains = tuple(
            DomainResult(name, result, p, *_verdict(result, margin, p, unit))
            for name, result, p in zip(by_domain.strata, results, by_domain.p_adjusted, strict=True)
        )
    pooled = direction.shown(pooled, sizes)
    verdict, words = _verdict(pooled, margin, None, unit)
    if mixed := _mixed(verdict, domains, conflicting):
        verdict, words = "mixed", f"{mixed}; pooled {words}"
    opposed = tuple(d.domain for d in domains if d.result.delta * pooled.delta < 0)
    return Comparison(
        a, b, pooled, verdict, words, domains, conflicting, opposed,
        pairs.a, pairs.b, pairs.warnings, margin, direction.lower_is_better,
    )  # fmt: skip


def _cluster_codes(column: pd.Series) -> NDArray[np.int64] | None:
    """Return a number for each cluster; an item without a cluster gets a cluster alone."""
    if column.isna().all():
        return None
    factors, names = column.factorize()
    codes = factors.astype(np.int64)
    missing = codes < 0
    codes[missing] = len(names) + np.arange(int(missing.sum()))
    return codes


def _verdict(
    result: PairedResult, margin: float, p_adjusted: float | None, unit: Unit | None
) -> tuple[str, str]:
    """Return the verdict and its words; scores of no known unit have short words."""
    claimed = claim(result, margin, SIGNIFICANCE_LEVEL, p_adjusted, unit or POINTS)
    if unit is not None:
        return claimed.verdict, claimed.words
    p_value = result.p_value if p_adjusted is None else p_adjusted
    within = f" within {margin:g}" if claimed.verdict == "equivalent" else ""
    words = f"{claimed.verdict}{within} ({result.delta:+.4g}, p = {p_value:.3g})"
    return claimed.verdict, words + disagreement(result, claimed.verdict, p_adjusted)


def _mixed(verdict: str, domains: tuple[DomainResult, ...], conflicting: bool) -> str:
    """Return what domains show that the pool does not; empty if they agree."""
    clear = [d for d in domains if d.verdict in {"improves", "harms"}]
    if not clear or (verdict in {"improves", "harms"} and not conflicting):
        return ""
    parts = []
    for word in ("improves", "harms"):
        named = [d.domain for d in clear if d.verdict == word]
        if named:
            parts.append(f"{word} {', '.join(named)}")
    return f"mixed, by domain: {'; '.join(parts)}"
