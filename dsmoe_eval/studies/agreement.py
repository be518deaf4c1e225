"""How far methods' scores agree with the measured effects of single experts.

Agreement is Spearman's rank correlation over all (layer, expert), averaged over domains, or over
the groups into which a method's scores part a dense model's neurons. Its interval resamples what
scores come from (documents, and of methods of influence the items whose right answers they read)
and what effects are measured on (answered items).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ..experts import RoutingCounts, get_method
from ..runs.influence import InfluenceTables
from .results import AgreementRow

Floats = NDArray[np.float64]
RESAMPLES = 500
LEVEL = 0.95
_ITEMS = 1
"""Keeps the draws of items that influence is of apart from the others."""


@dataclass(frozen=True, slots=True)
class CausalEffects:
    """The cost of masking each expert, or the gain by raising it.

    Attributes:
        domains: names.
        domain: [items] index into `domains`.
        effect: [layers, experts, items] fall of the gold answer's log-probability by masking, or
            its rise by raising, in nats.
    """

    domains: tuple[str, ...]
    domain: NDArray[np.int64]
    effect: Floats

    def plain(self, items: NDArray[np.int64] | None = None) -> Floats:
        """Return the mean effect by domain, [domains, layers, experts], over `items` or all."""
        chosen = np.arange(len(self.domain)) if items is None else items
        return np.stack(
            [
                self.effect[..., chosen[self.domain[chosen] == index]].mean(-1)
                for index in range(len(self.domains))
            ]
        )


def specific(plain: Floats) -> Floats:
    """Return the effect on each domain minus the mean effect on all others, [domains, ...]."""
    others = (plain.sum(0) - plain) / (len(plain) - 1)
    result: Floats = plain - others
    return result


@dataclass(frozen=True, slots=True)
class MethodEffects:
    """The measured effects that a method's scores are compared with.

    Attributes:
        effects: those of all experts, or of groups, [domains, groups, items].
        members: [domains, groups, size], the experts of each group as indices into the flat
            [layers * experts]; None: experts one by one. The first axis says for which domain the
            method scored them.
    """

    effects: CausalEffects
    members: NDArray[np.int64] | None = None


def rank_agreements(
    counts: RoutingCounts,
    measured: Mapping[str, MethodEffects],
    seed: int,
    influence: InfluenceTables | None = None,
) -> dict[str, dict[str, AgreementRow]]:
    """Return the mean Spearman correlation of each method's scores with the effects.

    The score of a group is the mean of its experts'. Intervals are percentiles over resamples of
    identification documents and of answered items, each within its domain; groups stay.

    Args:
        counts: the counts of identification text, with influence where a method needs it.
        measured: method -> the measured effects, all on the same items.
        seed: the seed of the resamples.
        influence: where counts have influence, the function that resamples its items.

    Raises:
        ValueError: the counts have influence, and it cannot be resampled.
    """
    if (counts.influence is None) != (influence is None):
        raise ValueError("counts with influence need its items too, and only they")
    estimates = _agreements(counts, measured, None)
    generator, of_items = np.random.default_rng(seed), np.random.default_rng([seed, _ITEMS])
    documents, (first, *_) = replace(counts, influence=None), measured.values()
    drawn: list[Floats] = []
    for _ in range(RESAMPLES):
        resampled = documents.resampled(_weights(counts.domain, generator))
        if influence is not None:
            resampled = replace(resampled, influence=influence(of_items))
        rows = _resample(first.effects.domain, generator)
        drawn.append(_agreements(resampled, measured, rows))
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    low, high = np.percentile(np.array(drawn), tails, axis=0)
    return {
        name: {
            f"agreement_{kind}": AgreementRow(
                value=float(estimates[row, column]),
                ci95=(float(low[row, column]), float(high[row, column])),
            )
            for column, kind in enumerate(("specific", "plain"))
        }
        for row, name in enumerate(measured)
    }


def chance_agreement(domains: int, experts: int, seed: int) -> float:
    """Return the mean Spearman correlation over domains that 95 % of random rankings stay below.

    The correlation is compared by size, without its sign.
    """
    generator = np.random.default_rng(seed)
    ranks = generator.random((10_000, domains, experts)).argsort(-1)
    centred = ranks - (experts - 1) / 2
    means = (centred * np.arange(experts)).sum(-1) / (centred[0, 0] ** 2).sum()
    return float(np.quantile(np.abs(means.mean(-1)), LEVEL))


def _agreements(
    counts: RoutingCounts, measured: Mapping[str, MethodEffects], items: NDArray[np.int64] | None
) -> Floats:
    """Return each method's agreement with specific and plain effects, [methods, 2]."""
    # Methods that are compared with the same effects share their averages.
    plains = {id(one.effects): one.effects.plain(items) for one in measured.values()}
    pairs = [
        _agreement(counts, name, one, plains[id(one.effects)]) for name, one in measured.items()
    ]
    return np.array(pairs)


def _agreement(
    counts: RoutingCounts, method: str, measured: MethodEffects, plain: Floats
) -> Floats:
    score, own = get_method(method).score, specific(plain)
    pairs = []
    for index, domain in enumerate(measured.effects.domains):
        scores = score(counts, domain).ravel()
        if measured.members is None:
            pairs.append([_spearman(scores, table[index].ravel()) for table in (own, plain)])
        else:
            means = scores[measured.members[index]].mean(-1)
            pairs.append([_spearman(means, table[index, index]) for table in (own, plain)])
    mean: Floats = np.mean(pairs, axis=0)
    return mean


def _spearman(one: Floats, other: Floats) -> float:
    """Return the rank correlation: zero if one of them ranks nothing, since all are the same."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)


def _weights(domain: NDArray[np.int64], generator: np.random.Generator) -> Floats:
    weight = np.zeros(len(domain))
    np.add.at(weight, _resample(domain, generator), 1)
    return weight


def _resample(domain: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many items of each domain as there are, with replacement."""
    rows = [np.flatnonzero(domain == index) for index in np.unique(domain)]
    return np.concatenate([generator.choice(own, len(own)) for own in rows])
