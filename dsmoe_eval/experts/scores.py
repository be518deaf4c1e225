"""Expert scores: small pure functions over routing counts, each giving [layers, experts].

Notation, for one domain: N tokens, of which those of S are salient and those of C are not; n_e
tokens use expert e, n_eS of them salient; K experts are selected for each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..steering import ChosenExpert
from .counts import RoutingCounts, Sums

Scores: TypeAlias = NDArray[np.float64]


def dsmoe(counts: RoutingCounts, domain: str) -> Scores:
    """Eq. 8 of the DSMoE paper: P(e|D) [P(S|e) - P(C|e)], which is (2 n_eS - n_e) / N.

    arXiv 2604.05267. An expert that the domain never uses scores 0.
    """
    own = counts.of(domain)
    scores: Scores = (2 * _salient(own) - own.used) / own.tokens
    return scores


def dsmoe_code(counts: RoutingCounts, domain: str) -> Scores:
    """The raw counts of the paper's published code: (n_eS - n_eC) n_e / sum of all n.

    Frequency enters squared, so that the order is not Eq. 8's. The sum runs over all layers.
    """
    own = counts.of(domain)
    scores: Scores = (2 * _salient(own) - own.used) * own.used / own.used.sum()
    return scores


def frequency(counts: RoutingCounts, domain: str) -> Scores:
    """P(e|D), the share of the domain's tokens that use the expert: the control to be beaten."""
    own = counts.of(domain)
    rate: Scores = own.used / own.tokens
    return rate


def preference(counts: RoutingCounts, domain: str) -> Scores:
    """Eq. 8 without its P(e|D): P(S|e) - P(C|e). An expert that is never used scores 0."""
    own = counts.of(domain)
    return (2 * _salient(own) - own.used) / np.maximum(own.used, 1e-300)


def risk_difference(counts: RoutingCounts, domain: str) -> Scores:
    """P(e | the domain's tokens) - P(e | all other domains' tokens); SteerMoE, arXiv 2509.09660."""
    own, others = counts.of(domain), counts.all_but(domain)
    return own.used / own.tokens - others.used / others.tokens


def npmi(counts: RoutingCounts, domain: str) -> Scores:
    """RICE (arXiv 2505.14681): normalised PMI of expert and marker token, summed with signs.

    nPMI = [log2(k/M) + log2(N/n_e)] / log2(N/k), with k uses at the marker and M markers (in RICE
    one a trace). Its limits: -1 where the expert never runs at the marker (k = 0), 0 where every
    token is a marker that uses the expert (k = N).

    Raises:
        ValueError: no marker was declared, or one is not in the domain's text.
    """
    own = counts.of(domain)
    if not counts.markers:
        raise ValueError("npmi needs marker tokens; declare them in the suite or with --marker")
    total = np.zeros_like(own.used)
    for place, marker in enumerate(counts.markers):
        if not own.marker_tokens[place]:
            raise ValueError(f"the marker {marker.text!r} is not in the text of {domain!r}")
        uses = own.marked[place]
        with np.errstate(divide="ignore", invalid="ignore"):
            mutual = np.log2(uses / own.marker_tokens[place]) + np.log2(own.tokens / own.used)
            normal = mutual / np.log2(own.tokens / uses)
        normal = np.where(uses == 0, -1.0, np.where(uses == own.tokens, 0.0, normal))
        total += marker.coefficient * normal
    return total


def esft_gate(counts: RoutingCounts, domain: str) -> Scores:
    """ESFT's average gate score (arXiv 2407.01906): mean over documents of the mean weight."""
    return counts.of(domain).gate_mean


def esft_token(counts: RoutingCounts, domain: str) -> Scores:
    """ESFT's token selection ratio (arXiv 2407.01906): mean over documents of the share of slots.

    A layer sums to 1.
    """
    return counts.of(domain).use_mean


def easy_ep(counts: RoutingCounts, domain: str) -> Scores:
    """EASY-EP (arXiv 2504.06792): contribution to the domain's tokens, as a share of the layer's.

    The method ranks the experts of a layer; the shares make layers comparable.

    Raises:
        ValueError: the pass computed no contributions.
    """
    own = counts.of(domain)
    if own.contribution is None:
        raise ValueError("easy-ep needs contributions, which this pass did not compute")
    share: Scores = own.contribution / own.contribution.sum(-1, keepdims=True)
    return share


def exposure(counts: RoutingCounts) -> Scores:
    """Share of all tokens, of every domain, that use the expert: what controls are matched on."""
    whole = counts.total()
    return whole.used / whole.tokens


def activation_share(counts: RoutingCounts, experts: Sequence[ChosenExpert]) -> float:
    """Share of all expert activations, over tokens and layers, that fall on these experts."""
    uses = counts.total().used
    chosen = sum(float(uses[counts.layers.index(e.layer), e.expert]) for e in experts)
    return chosen / float(uses.sum())


def _salient(own: Sums) -> Scores:
    if own.salient is None:
        raise ValueError("this method needs token saliency, which the pass did not compute")
    return own.salient
