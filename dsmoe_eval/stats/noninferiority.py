"""Tests whether B is worse than A by less than a margin."""

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy.special import ndtr

from .clusters import clustered_differences
from .paired import (
    CLUSTERED_T_TEST,
    T_TEST,
    PairedCounts,
    as_pairs,
    count_pairs,
    is_binary,
    tango_interval,
    tango_z,
)


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """The outcome of a one-sided test that system B is not worse than A by a margin.

    Attributes:
        n: Number of items.
        delta: Score of B minus score of A.
        margin: The tolerated drop, in units of the score.
        alpha: One-sided significance level.
        lower_bound: One-sided lower confidence bound of ``delta`` at level 1 - alpha; NaN if there
            is none.
        p_value: One-sided p-value of "B is worse by the margin or more".
        non_inferior: Whether non-inferiority is shown: ``lower_bound > -margin``, equivalently
            ``p_value < alpha``. If False, nothing is shown; a drop is not proven.
        gained: Items on which B scores more than A.
        lost: Items on which B scores less than A.
        test: Name of the test behind ``p_value``.
        clusters: Number of clusters; ``n`` if items are independent.
    """

    n: int
    delta: float
    margin: float
    alpha: float
    lower_bound: float
    p_value: float
    non_inferior: bool
    gained: int
    lost: int
    test: str
    clusters: int


def non_inferiority(
    score_a: ArrayLike,
    score_b: ArrayLike,
    margin: float,
    alpha: float = 0.025,
    clusters: ArrayLike | None = None,
) -> NonInferiority:
    """Test H0: score_b - score_a <= -margin against "B is less than the margin worse".

    Independent items with scores of 0 and 1: Tango's score test and the matching interval, Tango
    (1998), Statistics in Medicine 17:891-908. Enumerated exactly for 30 to 300 items with a true
    difference of -margin, margins up to 0.1 and up to half of the items changed, its type-I error
    is at most 0.029 at alpha 0.025 (300 items: 0.026). At alpha 0.05 the largest is 0.074 (30
    items, 0.066 for 300), where items are only lost and never gained.

    All other scores: the lower bound of Student's t with a standard error that is robust to
    clusters, as in `compare_paired`, and the p-value that inverts it. Simulated with a true drop of
    the margin, 0.05, alpha 0.025 and 30 to 500 items or clusters with scores in [0, 1], its type-I
    error is 0 to 3.7 %. It is larger for few unbounded scores whose differences have a long tail of
    losses (lognormal): 5 % with 30 items, 10 % with 10, but 2.3 % with 100. See
    `reports/calibration`.

    Args:
        score_a: Shape (n,), finite; 1 or True where A is right and 0 or False where it is wrong,
            or a score, more is better.
        score_b: The same for B, on the same items in the same order.
        margin: The tolerated drop, in units of the score; in [0, 1) if scores are in [0, 1]. 0
            tests whether B is better.
        alpha: One-sided significance level, in (0, 0.25].
        clusters: Shape (n,), a label per item; items that may depend on each other share one.

    Returns:
        The outcome. Without a bound (one cluster, or unbounded scores that all differ alike)
        non-inferiority is not shown and p is 1.

    Raises:
        ValueError: If ``margin`` or ``alpha`` is out of range, or as in `compare_paired`.
    """
    a, b, codes = as_pairs(score_a, score_b, clusters)
    differences = clustered_differences(a, b, codes)
    _check(margin, alpha, differences.bounded)
    if codes is None and is_binary(a) and is_binary(b):
        p_value, bound, test = _score_test(count_pairs(a, b), margin, alpha)
    else:
        p_value, bound = differences.p_value(-margin), differences.bound(alpha)
        test = T_TEST if codes is None else CLUSTERED_T_TEST
    non_inferior = p_value < alpha
    return NonInferiority(
        n=a.size,
        delta=differences.delta,
        margin=margin,
        alpha=alpha,
        lower_bound=_beside(-margin, bound, above=non_inferior),
        p_value=p_value,
        non_inferior=non_inferior,
        gained=int((b > a).sum()),
        lost=int((b < a).sum()),
        test=test,
        clusters=differences.sums.size,
    )


def _check(margin: float, alpha: float, bounded: bool) -> None:
    if not 0 <= margin < (1 if bounded else math.inf):
        raise ValueError(
            f"margin is {margin}; give a fraction in [0, 1), such as 0.02 for two points, or for "
            "unbounded scores a drop of at least 0."
        )
    if not 0 < alpha <= 0.25:
        raise ValueError(f"alpha is {alpha}; give a fraction in (0, 0.25], such as 0.025.")


def _score_test(counts: PairedCounts, margin: float, alpha: float) -> tuple[float, float, str]:
    p_value = float(ndtr(-tango_z(counts, -margin)))
    return p_value, tango_interval(counts, 1 - 2 * alpha)[0], "Tango score test"


def _beside(threshold: float, bound: float, *, above: bool) -> float:
    # Bound and p-value are one test and must agree. Only rounding (about 1e-12) can put them
    # on different sides of the threshold.
    if math.isnan(bound):
        return bound
    return max(bound, math.nextafter(threshold, 1)) if above else min(bound, threshold)
