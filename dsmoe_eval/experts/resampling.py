"""Resamples of the identification documents: what other text of the same domains might say."""

from __future__ import annotations

import numpy as np

from .counts import RoutingCounts

_STREAM = 0
"""Keeps these random numbers apart from those of the draws of random experts, which begin at 2."""


def resample_documents(counts: RoutingCounts, number: int, seed: int) -> RoutingCounts:
    """Resample the documents of each domain with replacement, as many as there are.

    A document's tokens resemble each other, so whole documents are drawn. Which tokens are salient
    stays as in the full text.

    Args:
        counts: the counts of one phase, in which each row is a document.
        number: the number of the resample, from 1; each has random numbers that no other has.
        seed: the seed of all resamples.

    Raises:
        ValueError: the counts are of both phases, so that a document has two rows.
    """
    if len(set(counts.generated.tolist())) > 1:
        raise ValueError("a document has a row in each phase; resample the counts of one phase")
    generator = np.random.default_rng([seed, _STREAM, number])
    weight = np.zeros(len(counts.domain))
    for domain in range(len(counts.domains)):
        rows = np.flatnonzero(counts.domain == domain)
        weight[rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)))
    return counts.resampled(weight)
