"""The mean difference of new items, foretold from that of others of the same kind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from .clusters import ClusteredDifferences, clustered_differences
from .paired import as_pairs, is_binary
from .power import smallest_effect


@dataclass(frozen=True, slots=True)
class Prediction:
    """A mean difference, B minus A, of items to come.

    Attributes:
        n: number of the items from which it is foretold.
        clusters: number of their clusters.
        delta: their mean difference.
        ci95: the 95 % prediction interval; None for one cluster.
        mde80: the smallest difference that the items to come show with 80 % power, by the spread of
            these; None where there is none.
        error: the standard error of the prediction; None likewise.
        degrees: its degrees of freedom; NaN without one.
    """

    n: int
    clusters: int
    delta: float
    ci95: tuple[float, float] | None
    mde80: float | None
    error: float | None
    degrees: float


def predict_mean(
    score_a: ArrayLike,
    score_b: ArrayLike,
    clusters: ArrayLike | None,
    coming: Sequence[str],
) -> Prediction:
    """Compute the mean difference that items to come will have, from items of the same kind.

    With a standard error SE from C clusters, that of the mean of M more clusters is about
    SE sqrt(C / M). The prediction's is therefore SE sqrt(1 + C / M), and Student's t with the
    degrees of freedom of SE gives the interval (for independent normal values it is exact: Geisser
    1993, Predictive Inference, section 1.2). SE is `ClusteredDifferences.standard_error`, also of
    binary scores. Where nothing differs at all, of unbounded scores too, no difference is foretold.

    Args:
        score_a: Shape (n,), finite, more is better.
        score_b: The same for B.
        clusters: Shape (n,), a label per item; None: items are independent.
        coming: The labels of the clusters of the items to come, one per item.

    Raises:
        ValueError: If shapes disagree, there is no item, or a score or label is missing.
    """
    if not len(coming):
        raise ValueError("no item is to come; give at least one.")
    a, b, codes = as_pairs(score_a, score_b, clusters)
    found, more = clustered_differences(a, b, codes), len(set(coming))
    count = found.sums.size
    if not found.bounded and count > 1 and not found.sums.any():
        return Prediction(a.size, count, 0.0, (0.0, 0.0), 0.0, 0.0, count - 1.0)
    mean = found.standard_error
    if math.isnan(mean):
        return Prediction(a.size, count, found.delta, None, None, None, math.nan)
    error = mean * math.sqrt(1 + count / more)
    degrees = found.degrees_of_freedom
    return Prediction(
        n=a.size,
        clusters=count,
        delta=found.delta,
        ci95=prediction_interval(found.delta, error, degrees, bounded=found.bounded),
        mde80=_smallest(found, more)
        if codes is not None or not (is_binary(a) and is_binary(b))
        else _known(smallest_effect(len(coming), float(np.mean(a != b)))),
        error=error,
        degrees=degrees,
    )


def prediction_interval(
    delta: float, error: float, degrees: float, *, bounded: bool = False
) -> tuple[float, float]:
    """Return the 95 % interval of Student's t; of scores in [0, 1] it is within [-1, 1]."""
    reach, limit = float(stdtrit(degrees, 0.975)) * error, 1.0 if bounded else math.inf
    return max(-limit, delta - reach), min(limit, delta + reach)


def pool_predictions(parts: Sequence[Prediction], items: Sequence[int]) -> Prediction | None:
    """Combine predictions of independent parts, each with its number of items to come.

    The degrees of freedom are Satterthwaite's; None if a part has no interval. There is no smallest
    effect where a part has none.
    """
    if any(part.error is None for part in parts):
        return None
    weights = np.array(items) / sum(items)
    errors = weights * np.array([part.error for part in parts])
    variance = errors**2
    delta, error = float(weights @ [part.delta for part in parts]), math.sqrt(variance.sum())
    degrees = 1.0
    if error:
        degrees = float(
            variance.sum() ** 2 / (variance**2 / [part.degrees for part in parts]).sum()
        )
    smallest = [math.nan if part.mde80 is None else part.mde80 for part in parts]
    return Prediction(
        n=sum(part.n for part in parts),
        clusters=sum(part.clusters for part in parts),
        delta=delta,
        ci95=prediction_interval(delta, error, degrees),
        mde80=_known(math.sqrt(float(((weights * smallest) ** 2).sum()))),
        error=error,
        degrees=degrees,
    )


def _smallest(found: ClusteredDifferences, more: int) -> float | None:
    """Return the effect that Student's t test of the items to come finds with 80 % power."""
    if more < 2:
        return None
    error = found.standard_error * math.sqrt(found.sums.size / more)
    effect = float(stdtrit(more - 1, 0.975) + stdtrit(more - 1, 0.8)) * error
    return None if found.bounded and effect > 1 else effect


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
