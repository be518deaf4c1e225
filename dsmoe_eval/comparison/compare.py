"""Two results from anywhere, compared item by item: by domain, pooled, and in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..stats import PairedResult, claim, compare_paired, compare_strata
from .pairing import Pairs, Unpaired, pair
from .readers import Selection, Source, read_results

MARGIN = 0.02
"""Differences below it do not matter, unless the user says otherwise."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class DomainResult:
    """One domain; `p_adjusted` is by Holm over domains."""

    domain: str
    result: PairedResult
    p_adjusted: float
    verdict: str
    words: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against the baseline A.

    Attributes:
        a: what the user called A.
        b: what the user called B.
        pooled: all items together.
        verdict: of the pool: improves, harms, equivalent, inconclusive; or mixed, where domains
            that differ significantly do not let the pool speak for them.
        words: the verdict with its figures.
        domains: each on its own, sorted by name; empty where the sources name at most one.
        conflicting: one domain is significantly up and another significantly down.
        opposed: domains whose differences have the other sign than the pool's, significant or not.
        unpaired_a: items of A left out.
        unpaired_b: items of B left out.
        warnings: what the user should know.
        margin: as given.
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without NaN: what is not known is None."""
        return {
            "a": self.a,
            "b": self.b,
            **_figures(self.pooled),
            "verdict": self.verdict,
            "claim": self.words,
            "margin": self.margin,
            "alpha": ALPHA,
            "unpaired": {"a": self.unpaired_a.n, "b": self.unpaired_b.n},
            "unpaired_items": {"a": asdict(self.unpaired_a), "b": asdict(self.unpaired_b)},
            "domains": [
                {
                    "domain": one.domain,
                    **_figures(one.result),
                    "p_adjusted": one.p_adjusted,
                    "verdict": one.verdict,
                    "claim": one.words,
                }
                for one in self.domains
            ],
            "conflicting": self.conflicting,
            "opposed": list(self.opposed),
            "warnings": list(self.warnings),
        }


def _figures(result: PairedResult) -> dict[str, Any]:
    values = asdict(result)
    values["ci95"] = None if math.isnan(result.ci95[0]) else list(result.ci95)
    values["mde80"] = None if math.isnan(result.mde80) else result.mde80
    return values


def compare(
    a: Source,
    b: Source,
    selection: Selection | None = None,
    selection_b: Selection | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> Comparison:
    """Compare B with the baseline A on the items that both hold.

    Items are paired by content (question, options, right answer), or by the `id` of the selection;
    see `pairing.pair`. The test is chosen by the scores' shape (`stats.compare_paired`): mid-p
    McNemar for single binary items, else a sign-flip permutation of items or clusters. Claims about
    domains are adjusted by Holm.

    Args:
        a: as `readers.read_results`.
        b: the same.
        selection: columns, task, metric and filter where a format leaves them open.
        selection_b: those of B, if others.
        margin: two-sided; an interval inside it is called equivalent. In units of the scores.
        seed: of random sign flips and resamples.

    Raises:
        UserError: a source cannot be read, or the two cannot be paired.
    """
    if not 0 < margin < math.inf:
        raise UserError(f"margin is {margin}; give a fraction above 0, such as 0.02")
    selection = selection or Selection()
    results = read_results(a, selection), read_results(b, selection_b or selection)
    pairs = pair(*results, by_id=selection.id is not None)
    return _compared(results[0].source, results[1].source, pairs, margin, seed)


def _compared(a: str, b: str, pairs: Pairs, margin: float, seed: int) -> Comparison:
    table = pairs.table
    scores = table["score_a"].to_numpy(np.float64), table["score_b"].to_numpy(np.float64)
    clusters = _labels(table["cluster"], alone=True)
    strata = _labels(table["domain"], alone=False)
    fractions = all(side.min() >= 0 and side.max() <= 1 for side in scores)
    domains: tuple[DomainResult, ...] = ()
    if strata is None or len(np.unique(strata)) < 2:
        pooled, conflicting = compare_paired(*scores, clusters, seed), False
    else:
        found = compare_strata(*scores, strata, clusters, ALPHA, seed)
        pooled, conflicting = found.pooled, found.conflicting
        domains = tuple(
            DomainResult(name, result, p, *_said(result, margin, p, fractions))
            for name, result, p in zip(found.strata, found.results, found.p_adjusted, strict=True)
        )
    verdict, words = _said(pooled, margin, None, fractions)
    if mixed := _mixed(verdict, domains, conflicting):
        verdict, words = "mixed", f"{mixed}; pooled {words}"
    opposed = tuple(d.domain for d in domains if d.result.delta * pooled.delta < 0)
    return Comparison(
        a, b, pooled, verdict, words, domains, conflicting, opposed,
        pairs.a, pairs.b, pairs.warnings, margin,
    )  # fmt: skip


def _labels(column: Any, alone: bool) -> Any:
    """Labels as an array of numbers or strings; None where no item has one.

    A missing cluster is one of its own (`alone`); a missing domain is the domain "".
    """
    if column.isna().all():
        return None
    if not alone:
        return column.fillna("").to_numpy(dtype=str)
    codes, names = column.factorize()
    codes = codes.astype(np.int64)
    missing = codes < 0
    codes[missing] = len(names) + np.arange(int(missing.sum()))
    return codes


def _said(
    result: PairedResult, margin: float, p_adjusted: float | None, fractions: bool
) -> tuple[str, str]:
    """Verdict and words; of scores that are no fractions in their own units, not in points."""
    said = claim(result, margin, ALPHA, p_adjusted)
    if fractions:
        return said.verdict, said.words
    p_value = result.p_value if p_adjusted is None else p_adjusted
    within = f" within {margin:g}" if said.verdict == "equivalent" else ""
    return said.verdict, f"{said.verdict}{within} ({result.delta:+.4g}, p = {p_value:.3g})"


def _mixed(verdict: str, domains: tuple[DomainResult, ...], conflicting: bool) -> str:
    """What domains say that the pool does not; empty where they agree."""
    clear = [d for d in domains if d.verdict in {"improves", "harms"}]
    if not clear or (verdict in {"improves", "harms"} and not conflicting):
        return ""
    parts = []
    for word in ("improves", "harms"):
        named = [d.domain for d in clear if d.verdict == word]
        if named:
            parts.append(f"{word} {', '.join(named)}")
    return f"mixed, by domain: {'; '.join(parts)}"
