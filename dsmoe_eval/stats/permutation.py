"""Permutation tests of excess use: does a domain use a unit more than all other domains do?

A unit is anything that a token uses or does not use; here, a (layer, expert). The tokens of one
document resemble each other, so the labels of whole documents are shuffled: shuffling tokens would
declare nearly every expert specific to a domain (see `reports/existence/calibration.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK_BYTES = 2**22
"""Small enough for the arrays of a block to stay in a processor's cache."""
_EXACT_FLOAT32 = 2**24
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class DocumentSums:
    """Sums of a value over the tokens of each document, and each document's domain.

    Attributes:
        used: Shape (documents, units), the sum over the document's tokens; of any sign.
        tokens: Shape (documents,), number of the document's tokens, at least 1.
        labels: Shape (documents,), the document's domain: 0 to domains - 1, each at least twice.

    Raises:
        ValueError: If shapes differ, a sum is not finite, there are fewer than two domains, or a
            domain has fewer than two documents, so that its variance is unknown.
    """

    used: NDArray[np.int64] | Floats
    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that the sums can be tested."""
        documents = self.tokens.size
        if self.used.ndim != 2 or not self.used.shape[0] == self.labels.size == documents > 0:
            raise ValueError(
                f"used has shape {self.used.shape}, tokens {self.tokens.shape} and labels "
                f"{self.labels.shape}; give (documents, units), (documents,) and (documents,)."
            )
        self._check_values()
        if self.tokens.min() < 1:
            raise ValueError("a document has no tokens; leave it out.")
        if self.labels.min() < 0:
            raise ValueError(f"labels holds {self.labels.min()}; domains are numbered from 0.")
        sizes = np.bincount(self.labels)
        if sizes.size < 2:
            raise ValueError("there is only one domain; give at least two.")
        if sizes.min() < 2:
            raise ValueError(
                f"domain {sizes.argmin()} has {sizes.min()} document(s); whole documents are "
                "shuffled and resampled, so give at least two of each domain."
            )

    def _check_values(self) -> None:
        if not np.isfinite(self.used).all():
            raise ValueError("a sum over a document's tokens is not finite.")

    @property
    def domains(self) -> int:
        """The number of domains."""
        return int(self.labels.max()) + 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of documents of each domain, shape (domains,)."""
        return np.bincount(self.labels)


@dataclass(frozen=True, slots=True)
class DocumentCounts(DocumentSums):
    """Counts of the uses of each unit in each document, and each document's domain.

    Attributes:
        used: Shape (documents, units), number of the document's tokens that use the unit.
        tokens: As in `DocumentSums`.
        labels: As in `DocumentSums`.

    Raises:
        ValueError: As `DocumentSums`, or if a count is impossible.
    """

    def _check_values(self) -> None:
        for name in ("used", "tokens", "labels"):
            if getattr(self, name).dtype.kind not in "iu":
                raise ValueError(f"{name} is {getattr(self, name).dtype}; give whole numbers.")
        if (self.used < 0).any() or (self.used > self.tokens[:, None]).any():
            raise ValueError("a unit is used by fewer than 0 or more than all tokens.")


@dataclass(frozen=True, slots=True)
class ExcessUse:
    """The use rates of a domain and of all others; a rate is summed uses over summed tokens.

    Attributes:
        rate: Shape (domains, units), share of the domain's tokens that use the unit.
        rest_rate: Shape (domains, units), the share of all other domains' tokens, pooled.
        difference: ``rate - rest_rate``.
        statistic: ``difference`` over its standard error, the permutation test's statistic (t);
            infinite where no document of either side differs from the others.
        lift: See `lift_of`; NaN for sums that are no counts.
    """

    rate: Floats
    rest_rate: Floats
    difference: Floats
    statistic: Floats
    lift: Floats


def excess_use(counts: DocumentSums) -> ExcessUse:
    """Compute the effect sizes of every domain and unit, over all documents.

    Of sums that are no counts, a rate is the mean value per token.
    """
    uses = np.stack([counts.used[counts.labels == d].sum(0) for d in range(counts.domains)])
    tokens = np.bincount(counts.labels, weights=counts.tokens)[:, None]
    rest, rest_tokens = uses.sum(0) - uses, tokens.sum() - tokens
    rate, rest_rate = uses / tokens, rest / rest_tokens
    statistic = _Summation(counts).observed(counts)
    lift = np.full_like(rate, np.nan)
    if isinstance(counts, DocumentCounts):
        lift = lift_of(rate, rest_rate, rest_tokens)
    return ExcessUse(rate, rest_rate, rate - rest_rate, statistic, lift)


def lift_of(rate: Floats, rest_rate: Floats, rest_tokens: Floats) -> Floats:
    """Compute ``rate / rest_rate`` without infinities.

    No use by the rest counts as half a use; if neither uses the unit the lift is 1.

    Args:
        rate: Any shape, share of a domain's tokens.
        rest_rate: Same shape, share of the other domains' tokens.
        rest_tokens: Broadcastable to that shape, number of the other domains' tokens.

    Returns:
        The lift, in the same shape.
    """
    lift: Floats = rate / np.maximum(rest_rate, 0.5 / rest_tokens)
    return np.where((rate == 0) & (rest_rate == 0), 1.0, lift)


def permutation_p_values(
    counts: DocumentSums,
    generator: np.random.Generator,
    permutations: int = 9999,
    on_block: Callable[[int], None] = lambda _permutations: None,
) -> Floats:
    """Compute one-sided p-values of "the domain uses the unit no more than the rest does".

    The statistic is the rate difference over its standard error (the two ratio estimators' by
    linearisation, documents independent), and p = (1 + #{shuffled >= observed}) / (permutations +
    1): Phipson and Smyth (2010), Statistical Applications in Genetics and Molecular Biology 9:39.
    The same shuffles of documents' labels serve all domains and units. The test is exact where
    labels are exchangeable. Dividing by the standard error keeps it near its level where domains
    only differ in the length or the spread of their documents (Janssen 1997, Statistics and
    Probability Letters 36:9; Chung and Romano 2013, Annals of Statistics 41:484); the bare rate
    difference does not, and gives false discoveries for a domain with short texts.

    Sums of counts are exact, for up to 9e7 tokens in total; others have float64's rounding, far
    below the distance within which a shuffled statistic is taken for a tie. Ties count against a
    discovery.

    Args:
        counts: Uses, or sums of another value, and tokens per document.
        generator: Random generator of the shuffles.
        permutations: Number of shuffles, at least 1.
        on_block: Called with the number of shuffles done, for a progress bar.

    Returns:
        Shape (domains, units), in [1 / (permutations + 1), 1]. A unit that is never used, or by
        every token, has p = 1.

    Raises:
        ValueError: If ``permutations`` is below 1.
    """
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}; give at least 1, better thousands.")
    sums = _Summation(counts)
    bar = _beatable(sums.observed(counts))
    reached = np.zeros((counts.domains, counts.used.shape[1]), dtype=np.int64)
    block = max(1, _BLOCK_BYTES // (8 * max(counts.used.shape)))
    for start in range(0, permutations, block):
        rows = min(block, permutations - start)
        shuffled = generator.permuted(np.tile(counts.labels, (rows, 1)), axis=1)
        for domain in range(counts.domains):
            reached[domain] += (sums.statistic(shuffled == domain) >= bar[domain]).sum(0)
        on_block(rows)
    return np.asarray((1 + reached) / (permutations + 1))


def fewest_discoveries(hypotheses: int, permutations: int, level: float) -> int:
    """Compute the smallest number of discoveries that Benjamini and Hochberg's rule can declare.

    P-values are at least 1 / (permutations + 1), so k discoveries need k * level / hypotheses to be
    at least that. If fewer experts are specific, none is discovered: use more permutations.
    """
    return max(1, math.ceil(hypotheses / (level * (permutations + 1)) - _ROUNDING))


class _Sums(NamedTuple):
    """Sums over groups of documents with u uses and t tokens, (groups, 1) or (groups, units)."""

    n: Floats
    t: Floats
    tt: Floats
    u: Floats
    uu: Floats
    ut: Floats

    def without(self, other: _Sums) -> _Sums:
        return _Sums(*(total - part for total, part in zip(self, other, strict=True)))

    def rate_variance(self) -> Floats:
        """Compute the variance of the ratio estimator sum(u) / sum(t).

        It is n / (n - 1) * sum((u - rate t)^2) / sum(t)^2.
        """
        rate = self.u / self.t
        size = self.uu + rate * rate * self.tt
        squares = size - 2 * rate * self.ut
        # A group in which every document has the same rate must have variance 0 despite rounding.
        squares[squares <= _ROUNDING**1.5 * size] = 0.0
        return squares * (self.n / ((self.n - 1) * self.t * self.t))


class _Summation:
    """Sums over groups of documents by matrix products, exact where all terms are integers."""

    def __init__(self, counts: DocumentSums) -> None:
        tokens = counts.tokens[:, None].astype(np.int64)
        used = counts.used.astype(np.int64) if isinstance(counts, DocumentCounts) else counts.used
        parts = (tokens**0, tokens, tokens**2, used, used**2, used * tokens)
        self._parts = [_exact(part) for part in parts]
        self._all = _Sums(*(part.sum(0, dtype=np.float64)[None] for part in self._parts))

    def observed(self, counts: DocumentSums) -> Floats:
        """Compute the statistic of every domain, (domains, units)."""
        return self.statistic(counts.labels == np.arange(counts.domains)[:, None])

    def statistic(self, member: NDArray[np.bool_]) -> Floats:
        """Compute the studentised rate difference, (groups, units), of (groups, documents)."""
        sums = _Sums(*((member.astype(p.dtype) @ p).astype(np.float64) for p in self._parts))
        rest = self._all.without(sums)
        difference = (sums.u * self._all.t - self._all.u * sums.t) / (sums.t * rest.t)
        variance = sums.rate_variance() + rest.rate_variance()
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(difference == 0, 0.0, difference / np.sqrt(variance))


def _exact(part: NDArray[np.int64] | Floats) -> NDArray[Any]:
    """Convert to the narrowest floats in which every partial sum over documents is exact."""
    small = part.dtype.kind in "iu" and part.sum(0).max() <= _EXACT_FLOAT32
    return part.astype(np.float32 if small else np.float64)


def _beatable(observed: Floats) -> Floats:
    """Lower the observed statistic by the possible rounding error of an equal one."""
    lowered: Floats = observed * (1 - _ROUNDING * np.sign(observed))
    return lowered
