"""Expert scores: small pure functions over routing counts, each giving [layers, experts]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..steering import ChosenExpert
from .counts import RoutingCounts

Scores: TypeAlias = NDArray[np.float64]


def dsmoe(counts: RoutingCounts, domain: str) -> Scores:
    """Eq. 8 of arXiv 2604.05267: g(e) = P(e|D) [P(s in S|e) - P(s in C|e)].

    With n_e the domain's tokens that use e, of which n_eS are salient and N all tokens of the
    domain, this is (n_e / N) (n_eS / n_e - n_eC / n_e) = (2 n_eS - n_e) / N. An expert that the
    domain never uses scores 0.
    """
    own = counts.index(domain)
    scores: Scores = (2 * counts.used_salient[own] - counts.used[own]) / counts.tokens[own]
    return scores


def risk_difference(counts: RoutingCounts, domain: str) -> Scores:
    """P(e | the domain's tokens) - P(e | all other domains' tokens); SteerMoE, arXiv 2509.09660."""
    own = counts.index(domain)
    others = np.delete(np.arange(len(counts.domains)), own)
    if not len(others):
        raise ValueError("a risk difference needs text of at least one other domain")
    elsewhere = counts.used[others].sum(0) / counts.tokens[others].sum()
    scores: Scores = counts.used[own] / counts.tokens[own] - elsewhere
    return scores


def exposure(counts: RoutingCounts) -> Scores:
    """Share of all tokens, of every domain, that use the expert: what controls are matched on."""
    total: Scores = counts.used.sum(0) / counts.tokens.sum()
    return total


def activation_share(counts: RoutingCounts, experts: Sequence[ChosenExpert]) -> float:
    """Share of all expert activations, over tokens and layers, that fall on these experts."""
    uses = counts.used.sum(0)
    chosen = sum(int(uses[counts.layers.index(e.layer), e.expert]) for e in experts)
    return chosen / int(uses.sum())


METHODS: dict[str, Callable[[RoutingCounts, str], Scores]] = {
    "dsmoe": dsmoe,
    "risk-difference": risk_difference,
}
"""Methods by the name that a profile carries."""
