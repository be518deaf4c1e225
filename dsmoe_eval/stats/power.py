"""What a number of items can show: power of the mid-p McNemar test, smallest effect found."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr
from scipy.stats import binom

_TAIL = 1e-9
_DELTA_TOLERANCE = 1e-6
_LARGEST_TABLE = 2**15


def midp_power(n: int, delta: float, discordance: float, alpha: float = 0.05) -> float:
    """Exact power of the two-sided mid-p McNemar test.

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
    """The smallest difference of scores that the mid-p McNemar test finds with a given power.

    Exact up to 1e-6. A difference above ``discordance`` is possible only if more items than
    that change, so discordance is taken as max(discordance, difference). For many items it is
    near 2.8 * sqrt(discordance / n) at the defaults.

    Args:
        n: Number of items.
        discordance: Share of items on which the systems differ, in [0, 1].
        power: Wanted probability that the test rejects, in (alpha, 1).
        alpha: Two-sided significance level, in (0, 0.25].

    Returns:
        The difference, a fraction in [0, 1]; NaN where even a difference of 1 is not found
        (fewer than 5 items at alpha 0.05).

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check(n, discordance, alpha)
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; give a fraction between alpha ({alpha}) and 1.")
    return _smallest_effect(n, float(discordance), float(power), float(alpha))


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
    # The test's own error rate can reach a power asked for just above alpha.
    if surplus(0.0) >= 0:
        return 0.0
    return float(brentq(surplus, 0.0, 1.0, xtol=_DELTA_TOLERANCE))


def _power(n: int, delta: float, discordance: float, alpha: float) -> float:
    # Too rare a change to count; scipy's binomial overflows for probabilities near 1e-308.
    if n * discordance < _TAIL:
        return 0.0
    first, last = binom.ppf((_TAIL, 1 - _TAIL), n, discordance).astype(int)
    changed = np.arange(first, last + 1)
    most = _most_of(n, changed, alpha)
    gain_share = (1 + delta / discordance) / 2
    rejected = bdtr(most, changed, gain_share) + bdtr(most, changed, 1 - gain_share)
    # bdtr is NaN below zero, where no split of so few changed items can be rejected.
    rejected = np.where(most < 0, 0.0, rejected)
    return float(binom.pmf(changed, n, discordance) @ rejected)


def _most_of(n: int, changed: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """`_most_against` of some counts up to n; of few items all at once, to be kept."""
    if n > _LARGEST_TABLE:
        return _most_against(changed, alpha)
    return _table(1 << int(n).bit_length(), alpha)[changed]


@lru_cache(maxsize=64)
def _table(size: int, alpha: float) -> NDArray[np.int64]:
    """For 0 to size - 1 changed items; the next power of two above n serves every such n."""
    return _most_against(np.arange(size), alpha)


def _most_against(changed: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """The rejection region: for each number of changed items the largest smaller count.

    Args:
        changed: Shape (m,), numbers of changed items.
        alpha: Two-sided significance level, at most 0.25.

    Returns:
        Shape (m,): the test rejects if and only if min(gained, lost) is at most this; -1
        where it never does.
    """
    # The mid-p value of k is the sum of the distribution function at k and k - 1. It is below
    # alpha one short of the alpha/2 quantile, and at the quantile itself perhaps.
    quantile = binom.ppf(alpha / 2, changed, 0.5).astype(np.int64)
    midp = binom.cdf(quantile, changed, 0.5) + binom.cdf(quantile - 1, changed, 0.5)
    most: NDArray[np.int64] = quantile - (midp >= alpha)
    return most
