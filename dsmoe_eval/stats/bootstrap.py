"""Bootstrap over documents: intervals of excess use, and the stability of a choice of units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from .permutation import DocumentCounts, DocumentSums, Floats, lift_of

_BLOCK_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class ExcessUseIntervals:
    """The intervals of `ExcessUse`: lower and upper bounds.

    Attributes:
        difference: Shape (2, domains, units), bounds of the rate difference.
        lift: Shape (2, domains, units), bounds of the lift; NaN for sums that are no counts.
    """

    difference: Floats
    lift: Floats


def bootstrap_intervals(
    counts: DocumentSums,
    generator: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> ExcessUseIntervals:
    """Compute expanded percentile intervals by resampling documents within each domain.

    The percentiles are further out than (1 +- level) / 2. This corrects the bootstrap's narrowness
    by sqrt((n - 1) / n) and accounts for an estimated variance, with n the documents of the smaller
    side: Hesterberg (2015), The American Statistician 69:371, section 5.3. In simulations of
    routing (`reports/existence/calibration.md`) the coverage is closer to the level than with plain
    percentiles; with BCa, whose correction cannot be estimated from few uses, it is lower than with
    either. Each interval is for one unit and is not corrected for the selection of that unit.

    Args:
        counts: Uses, or sums of another value, and tokens per document.
        generator: Random generator of the resamples.
        resamples: Number of resamples.
        level: Confidence level, in (0, 1).

    Returns:
        The intervals; their width is 0 where nothing varies, such as for a unit that is never used.

    Raises:
        ValueError: If ``resamples`` or ``level`` is out of range.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1, better thousands.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a fraction in (0, 1), such as 0.95.")
    draws = _draw(counts, generator, resamples)
    shape = (2, counts.domains, counts.used.shape[1])
    difference, lift = np.empty(shape), np.full(shape, np.nan)
    tails = [_tail(min(n, counts.tokens.size - n), level) for n in counts.sizes]
    block = max(1, _BLOCK_BYTES // (8 * resamples * counts.domains))
    for start in range(0, shape[2], block):
        units = slice(start, start + block)
        uses, tokens = _resampled(counts, draws, units)
        rest, rest_tokens = uses.sum(0) - uses, tokens.sum(0) - tokens
        rate, rest_rate = uses / tokens, rest / rest_tokens
        lifts = None
        if isinstance(counts, DocumentCounts):
            lifts = lift_of(rate, rest_rate, rest_tokens)
        for domain, tail in enumerate(tails):
            both = (tail, 1 - tail)
            difference[:, domain, units] = np.quantile((rate - rest_rate)[domain], both, axis=0)
            if lifts is not None:
                lift[:, domain, units] = np.quantile(lifts[domain], both, axis=0)
    return ExcessUseIntervals(difference, lift)


def top_stability(
    counts: DocumentSums,
    chosen: NDArray[np.int64],
    generator: np.random.Generator,
    pairs: int = 100,
) -> Floats:
    """Compute the mean Jaccard index of a domain's top units between two samples of documents.

    Documents are resampled within domains, and each resample ranks the units by rate difference.
    The top sets A and B of two independent resamples are compared by |A and B| / |A or B|. Ties go
    to the lower unit.

    Args:
        counts: Uses and tokens per document.
        chosen: Shape (domains,), the size of each domain's set.
        generator: Random generator of the resamples.
        pairs: Number of pairs of resamples.

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
        uses, tokens = _resampled(counts, _draw(counts, generator, 2), slice(None))
        difference = uses / tokens - (uses.sum(0) - uses) / (tokens.sum(0) - tokens)
        order = np.argsort(-difference, axis=2, kind="stable")
        for domain, size in enumerate(chosen):
            top_a, top_b = order[domain, :, :size]
            shared = np.intersect1d(top_a, top_b, assume_unique=True).size
            total[domain] += shared / max(1, 2 * size - shared)
    return np.where(chosen > 0, total / pairs, np.nan)


def chance_jaccard(size: int, units: int) -> float:
    """Return the Jaccard index of two random sets of `size` of `units`, at their mean overlap."""
    return size / (2 * units - size)


def _draw(
    counts: DocumentSums, generator: np.random.Generator, resamples: int
) -> list[NDArray[np.float64]]:
    """Draw how often each document of a domain is resampled: (resamples, documents) per domain."""
    return [
        generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)
        for size in counts.sizes
    ]


def _resampled(
    counts: DocumentSums, draws: list[NDArray[np.float64]], units: slice
) -> tuple[Floats, Floats]:
    """Compute uses (domains, resamples, units) and tokens (domains, resamples, 1) of resamples."""
    members = [counts.labels == domain for domain in range(counts.domains)]
    used = counts.used[:, units].astype(np.float64)
    tokens = counts.tokens[:, None].astype(np.float64)
    pairs = list(zip(draws, members, strict=True))
    return (
        np.stack([draw @ used[member] for draw, member in pairs]),
        np.stack([draw @ tokens[member] for draw, member in pairs]),
    )


def _tail(documents: int, level: float) -> float:
    """Compute Hesterberg's alpha' / 2: the percentile at which an expanded interval ends."""
    reach = stdtrit(documents - 1, (1 + level) / 2) * np.sqrt(documents / (documents - 1))
    return float(ndtr(-reach))
