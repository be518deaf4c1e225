"""How far methods' scores agree with the measured effects of single experts.

Agreement is Spearman's rank correlation over all (layer, expert), averaged over domains; its
interval resamples what scores come from (documents, and of methods of influence the items whose
right answers they read) and what effects are measured on (answered items).
"""

from __future__ import annotations

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


def rank_agreements(
    counts: RoutingCounts,
    effects: CausalEffects,
    methods: list[str],
    seed: int,
    influence: InfluenceTables | None = None,
) -> dict[str, dict[str, AgreementRow]]:
    """Return the mean Spearman correlation of each method's scores with the effects.

    Its intervals are percentiles over resamples of identification documents and of answered items,
    each within its domain.

    Args:
        counts: the counts of identification text, with influence where a method needs it.
        effects: the measured effects.
        methods: names.
        seed: the seed of the resamples.
        influence: where counts have influence, the function that resamples its items.

    Raises:
        ValueError: the counts have influence, and it cannot be resampled.
    """
    if (counts.influence is None) != (influence is None):
        raise ValueError("counts with influence need its items too, and only they")
    plain = effects.plain()
    estimates = {name: _agreement(counts, name, effects.domains, plain) for name in methods}
    generator, of_items = np.random.default_rng(seed), np.random.default_rng([seed, _ITEMS])
    documents = replace(counts, influence=None)
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(RESAMPLES):
        resampled = documents.resampled(_weights(counts.domain, generator))
        if influence is not None:
            resampled = replace(resampled, influence=influence(of_items))
        again = effects.plain(_resample(effects.domain, generator))
        for name in methods:
            drawn[name].append(_agreement(resampled, name, effects.domains, again))
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    result: dict[str, dict[str, AgreementRow]] = {}
    for name in methods:
        low, high = np.percentile(np.array(drawn[name]), tails, axis=0)
        (own, whole) = estimates[name]
        result[name] = {
            "agreement_specific": {"value": own, "ci95": (float(low[0]), float(high[0]))},
            "agreement_plain": {"value": whole, "ci95": (float(low[1]), float(high[1]))},
        }
    return result


def chance_agreement(domains: int, experts: int, seed: int) -> float:
    """Return the mean Spearman correlation over domains that 95 % of random rankings stay below.

    The correlation is compared by size, without its sign.
    """
    generator = np.random.default_rng(seed)
    ranks = generator.random((10_000, domains, experts)).argsort(-1)
    centred = ranks - (experts - 1) / 2
    means = (centred * np.arange(experts)).sum(-1) / (centred[0, 0] ** 2).sum()
    return float(np.quantile(np.abs(means.mean(-1)), LEVEL))


def _agreement(
    counts: RoutingCounts, method: str, domains: tuple[str, ...], plain: Floats
) -> tuple[float, float]:
    score, own = get_method(method).score, specific(plain)
    pairs = []
    for index, domain in enumerate(domains):
        scores = score(counts, domain).ravel()
        pairs.append([_spearman(scores, table[index].ravel()) for table in (own, plain)])
    first, second = np.mean(pairs, axis=0)
    return float(first), float(second)


def _spearman(one: Floats, other: Floats) -> float:
    return float(spearmanr(one, other).statistic)


def _weights(domain: NDArray[np.int64], generator: np.random.Generator) -> Floats:
    weight = np.zeros(len(domain))
    np.add.at(weight, _resample(domain, generator), 1)
    return weight


def _resample(domain: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many items of each domain as there are, with replacement."""
    rows = [np.flatnonzero(domain == index) for index in np.unique(domain)]
    return np.concatenate([generator.choice(own, len(own)) for own in rows])
