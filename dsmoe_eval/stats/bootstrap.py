"""What another sample of documents would have shown: intervals, and how stable a choice is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from .permutation import DocumentCounts, Floats, lift_of

_BLOCK_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class ExcessUseIntervals:
    """Intervals of `ExcessUse`: lower and upper bounds.

    Attributes:
        difference: Shape (2, domains, units).
        lift: Shape (2, domains, units).
    """

    difference: Floats
    lift: Floats


def bootstrap_intervals(
    counts: DocumentCounts,
    generator: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> ExcessUseIntervals:
    """Expanded percentile intervals: documents are drawn again within each domain.

    Percentiles are taken further out than at (1 +- level) / 2, which undoes the bootstrap's
    narrowness by sqrt((n - 1) / n) and allows for an estimated spread, with n the documents of
    the smaller side: Hesterberg (2015), The American Statistician 69:371, section 5.3. In
    simulations of routing (`reports/existence/calibration.md`) this covers nearer its level than
    plain percentiles do, and BCa, whose correction cannot be estimated from few uses, less than
    either. Intervals are for one unit each and do not allow for having been selected.

    Args:
        counts: What was counted.
        generator: Of the resamples.
        resamples: How many.
        level: Of the interval, in (0, 1).

    Returns:
        The intervals; of no width where nothing varies, such as for a unit that is never used.

    Raises:
        ValueError: If ``resamples`` or ``level`` is out of range.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1, better thousands.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a fraction in (0, 1), such as 0.95.")
    draws = _draw(counts, generator, resamples)
    shape = (2, counts.domains, counts.used.shape[1])
    difference, lift = np.empty(shape), np.empty(shape)
    tails = [_tail(min(n, counts.tokens.size - n), level) for n in counts.sizes]
    block = max(1, _BLOCK_BYTES // (8 * resamples * counts.domains))
    for start in range(0, shape[2], block):
        units = slice(start, start + block)
        own, tokens = _resampled(counts, draws, units)
        rest, rest_tokens = own.sum(0) - own, tokens.sum(0) - tokens
        rate, rest_rate = own / tokens, rest / rest_tokens
        lifts = lift_of(rate, rest_rate, rest_tokens)
        for domain, tail in enumerate(tails):
            both = (tail, 1 - tail)
            difference[:, domain, units] = np.quantile((rate - rest_rate)[domain], both, axis=0)
            lift[:, domain, units] = np.quantile(lifts[domain], both, axis=0)
    return ExcessUseIntervals(difference, lift)


def top_stability(
    counts: DocumentCounts,
    chosen: NDArray[np.int64],
    generator: np.random.Generator,
    pairs: int = 100,
) -> Floats:
    """How alike two samples of documents would choose a domain's top units: mean Jaccard index.

    Twice `pairs` resamples of documents, within domains, each rank the units by rate difference;
    the top sets of two independent ones are compared, |A and B| / |A or B|. Ties go to the lower
    unit.

    Args:
        counts: What was counted.
        chosen: Shape (domains,), the size of each domain's set.
        generator: Of the resamples.
        pairs: How many pairs of resamples.

    Returns:
        Shape (domains,), in [0, 1]; NaN where ``chosen`` is 0. Compare with `chance_jaccard`.

    Raises:
        ValueError: If ``pairs`` is below 1, or ``chosen`` does not fit the counts.
    """
    units = counts.used.shape[1]
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}; give at least 1.")
    if chosen.shape != (counts.domains,) or (chosen < 0).any() or (chosen > units).any():
        raise ValueError(f"chosen is {chosen}; give one size, 0 to {units}, for each domain.")
    total = np.zeros(counts.domains)
    for _ in range(pairs):
        own, tokens = _resampled(counts, _draw(counts, generator, 2), slice(None))
        difference = own / tokens - (own.sum(0) - own) / (tokens.sum(0) - tokens)
        order = np.argsort(-difference, axis=2, kind="stable")
        for domain, size in enumerate(chosen):
            one, other = order[domain, :, :size]
            shared = np.intersect1d(one, other, assume_unique=True).size
            total[domain] += shared / max(1, 2 * size - shared)
    return np.where(chosen > 0, total / pairs, np.nan)


def chance_jaccard(size: int, units: int) -> float:
    """Jaccard index of two sets of `size` drawn blindly from `units`, at their expected overlap."""
    return size / (2 * units - size)


def _draw(
    counts: DocumentCounts, generator: np.random.Generator, resamples: int
) -> list[NDArray[np.float64]]:
    """For each domain, how often each of its documents is drawn: (resamples, its documents)."""
    return [
        generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)
        for size in counts.sizes
    ]


def _resampled(
    counts: DocumentCounts, draws: list[NDArray[np.float64]], units: slice
) -> tuple[Floats, Floats]:
    """Uses (domains, resamples, units) and tokens (domains, resamples, 1) of the resamples."""
    members = [counts.labels == domain for domain in range(counts.domains)]
    used = counts.used[:, units].astype(np.float64)
    tokens = counts.tokens[:, None].astype(np.float64)
    pairs = list(zip(draws, members, strict=True))
    return (
        np.stack([draw @ used[member] for draw, member in pairs]),
        np.stack([draw @ tokens[member] for draw, member in pairs]),
    )


def _tail(documents: int, level: float) -> float:
    """Hesterberg's alpha' / 2: the percentile at which an expanded interval ends."""
    reach = stdtrit(documents - 1, (1 + level) / 2) * np.sqrt(documents / (documents - 1))
    return float(ndtr(-reach))
