"""Comparisons over several domains or models: pooled, one by one, and summarised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from .multiplicity import holm
from .paired import PairedResult, as_pairs, compare_paired


@dataclass(frozen=True, slots=True)
class StrataResult:
    """The comparison of B with A over several strata, such as domains.

    Attributes:
        pooled: The comparison of all items, so that strata are weighted by their items.
        strata: The sorted names of the strata.
        results: The comparison of each stratum, in that order.
        p_adjusted: The strata's p-values, adjusted by Holm.
        conflicting: Whether B is significantly better in one stratum and significantly worse in
            another, by the adjusted p-values; the pooled effect then describes neither.
    """

    pooled: PairedResult
    strata: tuple[str, ...]
    results: tuple[PairedResult, ...]
    p_adjusted: tuple[float, ...]
    conflicting: bool


def compare_strata(
    score_a: ArrayLike,
    score_b: ArrayLike,
    strata: ArrayLike,
    clusters: ArrayLike | None = None,
    alpha: float = 0.05,
) -> StrataResult:
    """Compare B with A within strata and pooled over them.

    For binary items without clusters the pooled test depends only on the counts of gains and
    losses, and is the mid-p McNemar test of their sums. The pooled interval of other scores counts
    differences between strata as chance, so it is slightly too wide if strata differ.

    Args:
        score_a: Shape (n,), as in `compare_paired`.
        score_b: The same for B.
        strata: Shape (n,), a label per item.
        clusters: Shape (n,), a label per item; the same label in two strata is two clusters.
        alpha: Two-sided significance level of `StrataResult.conflicting`.

    Returns:
        The comparisons.

    Raises:
        ValueError: As in `compare_paired`, or if strata and scores differ in shape.
    """
    a, b, _ = as_pairs(score_a, score_b, clusters)
    labels = np.asarray(strata).astype(str)
    if labels.shape != a.shape:
        raise ValueError(f"strata has shape {labels.shape}; give one label per item, {a.shape}.")
    names, stratum = np.unique(labels, return_inverse=True)
    nested = None if clusters is None else _nested(stratum, clusters)

    def compared(mask: NDArray[np.bool_]) -> PairedResult:
        return compare_paired(a[mask], b[mask], None if nested is None else nested[mask])

    pooled = compared(np.ones(a.size, dtype=bool))
    results = [compared(stratum == index) for index in range(names.size)]
    adjusted = holm([result.p_value for result in results])
    signs = {
        math.copysign(1, result.delta)
        for result, p in zip(results, adjusted, strict=True)
        if p <= alpha
    }
    return StrataResult(
        pooled=pooled,
        strata=tuple(map(str, names)),
        results=tuple(results),
        p_adjusted=tuple(map(float, adjusted)),
        conflicting=len(signs) == 2,
    )


def _nested(stratum: NDArray[np.int64], clusters: ArrayLike) -> NDArray[np.int64]:
    labels = np.asarray(clusters)
    if labels.dtype.kind not in "iu":
        labels = labels.astype(str)
    _, cluster = np.unique(labels, return_inverse=True)
    return np.asarray(stratum * (int(cluster.max()) + 1) + cluster, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ModelsSummary:
    """A random-effects summary over models (or other replications of the whole comparison).

    Attributes:
        k: Number of models.
        effect: Estimated mean of the models' true effects.
        ci95: 95 % interval of that mean.
        p_value: Two-sided p-value of "the mean of true effects is 0".
        tau: Estimated standard deviation of true effects between models.
        i_squared: Share of the effects' variance that is between models, in [0, 1].
        prediction95: 95 % interval of the true effect in another model; NaN for k = 2.
    """

    k: int
    effect: float
    ci95: tuple[float, float]
    p_value: float
    tau: float
    i_squared: float
    prediction95: tuple[float, float]


def combine_models(effects: Sequence[float], standard_errors: Sequence[float]) -> ModelsSummary:
    """Summarise the same comparison in several models, whose true effects may differ.

    The methods are Paule and Mandel's (1982) variance between models, Hartung and Knapp's (2001,
    Statistics in Medicine 20:3875) interval with Student's t of k - 1 degrees of freedom and a
    factor of at least 1 (Roever, Knapp and Friede 2015, BMC Medical Research Methodology 15:99),
    and the prediction interval of Higgins, Thompson and Spiegelhalter (2009, JRSS A 172:137), with
    k - 2.

    Args:
        effects: Shape (k,), k at least 2, the models' differences.
        standard_errors: Shape (k,), above 0; the width of ``ci95`` over 3.92 is adequate.

    Returns:
        The summary. With two models its interval is very wide: t has one degree of freedom.

    Raises:
        ValueError: If shapes differ, k is below 2 or a value is out of range.
    """
    effect, error = np.asarray(effects, float), np.asarray(standard_errors, float)
    if effect.ndim != 1 or effect.shape != error.shape or effect.size < 2:
        raise ValueError(
            f"effects has shape {effect.shape} and standard_errors {error.shape}; "
            "give one of each for at least two models."
        )
    if not (np.isfinite(effect).all() and np.isfinite(error).all() and (error > 0).all()):
        raise ValueError("an effect is not finite or a standard error not above 0.")
    # Importing statsmodels takes about a second.
    from statsmodels.stats.meta_analysis import combine_effects

    with np.errstate(all="ignore"):
        combined = combine_effects(effect, error**2, method_re="iterated", use_t=True)
    k, mean = effect.size, float(combined.mean_effect_re)
    # The Q of statsmodels is a difference of large numbers, and negative if effects are equal.
    q = float((((effect - combined.mean_effect_fe) / error) ** 2).sum())
    spread = float(combined.sd_eff_w_re) * math.sqrt(max(1.0, float(combined.scale_hksj_re)))
    reach = -float(stdtrit(k - 1, 0.025)) * spread
    prediction_reach = math.nan
    if k > 2:
        prediction_reach = -float(stdtrit(k - 2, 0.025)) * math.hypot(
            math.sqrt(combined.tau2), spread
        )
    return ModelsSummary(
        k=k,
        effect=mean,
        ci95=(mean - reach, mean + reach),
        p_value=float(2 * stdtr(k - 1, -abs(mean) / spread)),
        tau=math.sqrt(combined.tau2),
        i_squared=1 - (k - 1) / q if q > k - 1 else 0.0,
        prediction95=(mean - prediction_reach, mean + prediction_reach),
    )
