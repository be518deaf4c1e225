"""Which way is better, and in what unit: the metrics of a comparison that are no fractions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cards import OUTCOMES, Outcome
from ..stats import PairedResult, Unit
from .readers import Results
from .readers.likelihoods import GOLD_METRICS

Floats = NDArray[np.float64]
Scores = TypeVar("Scores", float, Floats)
_OF_METRIC: Mapping[str, Outcome] = {
    **dict.fromkeys(GOLD_METRICS, OUTCOMES["gold_logprob"]),
    "bits_per_byte": OUTCOMES["bits_per_byte"],
}


@dataclass(frozen=True, slots=True)
class Direction:
    """Which way is better, and in what unit differences are said.

    Attributes:
        lower_is_better: whether lower scores are better.
        unit: the unit of a known outcome; None: the scores have none, or are fractions.
        margin: the default margin in that unit; None likewise.
    """

    lower_is_better: bool = False
    unit: Unit | None = None
    margin: float | None = None

    def ordered(self, a: Scores, b: Scores) -> tuple[Scores, Scores]:
        """Return two scores in the order in which a positive difference is for the better."""
        return (b, a) if self.lower_is_better else (a, b)

    def shown(self, result: PairedResult, sizes: Floats | None) -> PairedResult:
        """Return a comparison of `ordered` scores with the levels of A and B; a gain stays a gain.

        Args:
            result: the comparison.
            sizes: the bytes of its items, whose sum divides the sum of scores; None: a mean.
        """
        scale = 1.0 if sizes is None else 1.0 / float(sizes.mean())
        a, b = self.ordered(result.score_a, result.score_b)
        low, high = result.ci95
        return replace(
            result,
            score_a=scale * a,
            score_b=scale * b,
            delta=scale * result.delta,
            ci95=(scale * low, scale * high),
            mde80=scale * result.mde80,
        )


def direction_of(a: Results, b: Results, lower_is_better: bool) -> Direction:
    """Return how the values of two results are shown, by their metric if it is a known outcome.

    Args:
        a: the baseline.
        b: the results that are compared with it; of the same metric, or of none that is known.
        lower_is_better: whether lower scores are better, where no metric says so.
    """
    metrics = {metric for side in (a, b) for metric, _ in side.measures.values()}
    about = _OF_METRIC.get(metrics.pop() or "") if len(metrics) == 1 else None
    if about is None:
        return Direction(lower_is_better)
    return Direction(not about.higher_is_better, Unit(about.unit), about.margin)
