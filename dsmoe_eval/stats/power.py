"""Power analysis: power of the mid-p McNemar test, detectable effect, and number of items."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, bdtrik, gammaln, xlog1py, xlogy

_TAIL = 1e-9
_DELTA_TOLERANCE = 1e-6
_LARGEST_TABLE = 2**15


def midp_power(n: int, delta: float, discordance: float, alpha: float = 0.05) -> float:
    """Compute the exact power of the two-sided mid-p McNemar test.

    The number of changed items is Binomial(n, discordance), the number of gains among m changed
    ones Binomial(m, (1 + delta / discordance) / 2), and the test rejects where the mid-p value
    (Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91) is below alpha.
    Numbers of changed items with a total probability below 1e-9 at either end are left out.

    Args:
        n: Number of items.
        delta: True difference of scores, a fraction; its sign does not matter.
        discordance: True share of items on which the systems differ, in [abs(delta), 1].
        alpha: Two-sided significance level, in (0, 0.25].

    Returns:
        The probability that the test rejects; with ``delta`` 0 its type-I error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check(n, discordance, alpha)
    if not abs(delta) <= discordance:
        raise ValueError(
            f"delta is {delta} with discordance {discordance}; scores cannot differ by more "
            "than the share of items on which the systems differ."
        )
    return _power(n, abs(delta), discordance, alpha)


def smallest_effect(n: int, discordance: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Compute the smallest score difference that the mid-p McNemar test detects with given power.

    It is exact up to 1e-6. A difference above ``discordance`` is possible only if more items than
    that change, so discordance is taken as max(discordance, difference). For many items it is
    near 2.8 * sqrt(discordance / n) at the defaults.

    Args:
        n: Number of items.
        discordance: Share of items on which the systems differ, in [0, 1].
        power: Required probability that the test rejects, in (alpha, 1).
        alpha: Two-sided significance level, in (0, 0.25].

    Returns:
        The difference, a fraction in [0, 1]; NaN if even a difference of 1 is not detected
        (fewer than 5 items at alpha 0.05).

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check(n, discordance, alpha)
    _check_power(power, alpha)
    return _smallest_effect(n, float(discordance), float(power), float(alpha))


def items_needed(
    effect: float, discordance: float, *, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Compute how many binary items the mid-p McNemar test needs to detect a difference.

    It is the number at which `midp_power` reaches `power`, by bisection. Power rises with n except
    for steps of the binomial distribution, which are largest if every item changes. For many items
    the number is near 7.85 * discordance / effect^2 at the defaults.

    Args:
        effect: True difference of scores, a fraction; its sign does not matter, and it is not 0.
        discordance: True share of items on which the systems differ, in [abs(effect), 1].
        alpha: Two-sided significance level, in (0, 0.25].
        power: Required probability that the test rejects, in (alpha, 1).

    Returns:
        The number of items.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if not 0 < abs(effect) <= discordance:
        raise ValueError(f"effect is {effect}; give a difference in (0, {discordance}].")
    _check(1, discordance, alpha)
    _check_power(power, alpha)
    return _fewest(lambda n: _power(n, abs(effect), discordance, alpha) >= power, at_least=1)


@dataclass(frozen=True, slots=True)
class SampleVariance:
    """The variance components of the differences B minus A.

    Attributes:
        items: Variance between items, of the difference of their expected scores.
        samples: Variance within an item, of the difference of one sample of each system.
    """

    items: float
    samples: float


def sample_variance(samples_a: ArrayLike, samples_b: ArrayLike) -> SampleVariance:
    """Split the variance of a pilot run's differences into items and samples (one-way ANOVA).

    Args:
        samples_a: Shape (n, k), scores of A: n items of at least two samples, n at least 2.
        samples_b: The same for B; k may differ.

    Returns:
        The variances; `SampleVariance.items` is at least 0.

    Raises:
        ValueError: If a shape is not valid.
    """
    a, b = np.asarray(samples_a, dtype=np.float64), np.asarray(samples_b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or min(*a.shape, *b.shape) < 2:
        raise ValueError(
            f"samples_a has shape {a.shape} and samples_b {b.shape}; give (items, samples), the "
            "same items and at least two items and samples."
        )
    within_a, within_b = a.var(axis=1, ddof=1).mean(), b.var(axis=1, ddof=1).mean()
    noise = within_a / a.shape[1] + within_b / b.shape[1]
    total = (b.mean(axis=1) - a.mean(axis=1)).var(ddof=1)
    return SampleVariance(max(0.0, float(total - noise)), float(within_a + within_b))


def items_needed_of_samples(
    effect: float,
    variance: SampleVariance,
    samples: int,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Compute how many items, with k samples each, are needed to detect a difference of means.

    The paired t test is used, without the allowance for what a sample may hide: item differences
    have variance ``items + samples / k``, so more samples help until the items' variance dominates.

    Args:
        effect: True difference of scores; its sign does not matter, and it is not 0.
        variance: From `sample_variance` or a guess; not both components are 0.
        samples: Samples per item, k, at least 1.
        alpha: Two-sided significance level, in (0, 0.25].
        power: Required probability that the test rejects, in (alpha, 1).

    Returns:
        The number of items, at least 2.

    Raises:
        ValueError: If an argument is out of its range.
    """
    spread = variance.items + variance.samples / samples if samples >= 1 else 0.0
    if not (spread > 0 and effect != 0):
        raise ValueError(
            f"effect is {effect}, samples {samples} and the variance of differences {spread}; "
            "give an effect other than 0, at least one sample and a variance above 0."
        )
    _check(1, 1, alpha)
    _check_power(power, alpha)
    from statsmodels.stats.power import TTestPower

    size = abs(effect) / math.sqrt(spread)
    test = TTestPower()
    return _fewest(lambda n: bool(test.power(size, n, alpha) >= power), at_least=2)


def _fewest(enough: Callable[[int], bool], at_least: int) -> int:
    few, many = at_least - 1, at_least
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _check_power(power: float, alpha: float) -> None:
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; give a fraction between alpha ({alpha}) and 1.")


def _check(n: int, discordance: float, alpha: float) -> None:
    if n < 1:
        raise ValueError(f"n is {n}; give at least one item.")
    if not 0 <= discordance <= 1:
        raise ValueError(f"discordance is {discordance}; give a fraction in [0, 1].")
    if not 0 < alpha <= 0.25:
        raise ValueError(f"alpha is {alpha}; give a fraction in (0, 0.25], such as 0.05.")


@lru_cache(maxsize=4096)
def _smallest_effect(n: int, discordance: float, power: float, alpha: float) -> float:
    def surplus(delta: float) -> float:
        return _power(n, delta, max(discordance, delta), alpha) - power

    if surplus(1.0) < 0:
        return math.nan
    # The test's type-I error can reach a required power just above alpha.
    if surplus(0.0) >= 0:
        return 0.0
    return float(brentq(surplus, 0.0, 1.0, xtol=_DELTA_TOLERANCE))


def _power(n: int, delta: float, discordance: float, alpha: float) -> float:
    # Such rare changes do not matter, and scipy's binomial overflows near 1e-308.
    if n * discordance < _TAIL:
        return 0.0
    # The same as binom.ppf and binom.pmf, without their slow argument checks.
    tails = bdtrik((_TAIL, 1 - _TAIL), n, discordance)
    first, last = max(0, math.floor(tails[0])), min(n, math.ceil(tails[1]))
    changed = np.arange(first, last + 1)
    most = _most_of(n, changed, alpha)
    gain_share = (1 + delta / discordance) / 2
    rejected = bdtr(most, changed, gain_share) + bdtr(most, changed, 1 - gain_share)
    # bdtr is NaN below zero, where no split of so few changed items can be rejected.
    rejected = np.where(most < 0, 0.0, rejected)
    ways = gammaln(n + 1) - gammaln(changed + 1) - gammaln(n - changed + 1)
    odds = xlogy(changed, discordance) + xlog1py(n - changed, -discordance)
    return float(np.exp(ways + odds) @ rejected)


def _most_of(n: int, changed: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """Return `_most_against` of counts up to n; for small n from a cached table."""
    if n > _LARGEST_TABLE:
        return _most_against(changed, alpha)
    return _table(1 << int(n).bit_length(), alpha)[changed]


@lru_cache(maxsize=64)
def _table(size: int, alpha: float) -> NDArray[np.int64]:
    """Compute `_most_against` for 0 to size - 1 changed items; size is a power of two above n."""
    return _most_against(np.arange(size), alpha)


def _most_against(changed: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """Compute the rejection region: the largest smaller count for each number of changed items.

    Args:
        changed: Shape (m,), numbers of changed items.
        alpha: Two-sided significance level, at most 0.25.

    Returns:
        Shape (m,): the test rejects if and only if min(gained, lost) is at most this; -1
        if it never does.
    """
    # The mid-p value of k is the sum of the distribution function at k and k - 1. It is below
    # alpha one short of the alpha/2 quantile, and at the quantile itself perhaps.
    tail = alpha / 2
    with np.errstate(invalid="ignore"):
        upper = np.nan_to_num(np.ceil(bdtrik(tail, changed, 0.5)))
    lower = np.maximum(upper - 1, 0)
    quantile = np.where(bdtr(lower, changed, 0.5) >= tail, lower, upper).astype(np.int64)
    below = np.where(quantile > 0, bdtr(np.maximum(quantile - 1, 0), changed, 0.5), 0.0)
    most: NDArray[np.int64] = quantile - (bdtr(quantile, changed, 0.5) + below >= alpha)
    return most
