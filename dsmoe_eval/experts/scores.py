"""Expert scores: pure functions of routing counts that return [layers, experts].

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
_ACTIVE_QUANTILE = 0.95


def dsmoe(counts: RoutingCounts, domain: str) -> Scores:
    """Score by Eq. 8 of the DSMoE paper: P(e|D) [P(S|e) - P(C|e)] = (2 n_eS - n_e) / N.

    arXiv 2604.05267. An expert that the domain never uses scores 0.
    """
    sums = counts.of(domain)
    scores: Scores = (2 * _salient(sums) - sums.used) / sums.tokens
    return scores


def dsmoe_code(counts: RoutingCounts, domain: str) -> Scores:
    """Score by the paper's published code: (n_eS - n_eC) n_e / sum of all n.

    The frequency is squared here, so the order differs from Eq. 8. The sum is over all layers.
    """
    sums = counts.of(domain)
    scores: Scores = (2 * _salient(sums) - sums.used) * sums.used / sums.used.sum()
    return scores


def frequency(counts: RoutingCounts, domain: str) -> Scores:
    """Score by P(e|D), the share of the domain's tokens that use the expert: a baseline."""
    sums = counts.of(domain)
    rate: Scores = sums.used / sums.tokens
    return rate


def preference(counts: RoutingCounts, domain: str) -> Scores:
    """Score by Eq. 8 without its factor P(e|D): P(S|e) - P(C|e).

    An expert that is never used scores 0.
    """
    sums = counts.of(domain)
    return (2 * _salient(sums) - sums.used) / np.maximum(sums.used, 1e-300)


def risk_difference(counts: RoutingCounts, domain: str) -> Scores:
    """Score by P(e | domain) - P(e | all other domains) of SteerMoE (arXiv 2509.09660)."""
    sums, others = counts.of(domain), counts.all_but(domain)
    return sums.used / sums.tokens - others.used / others.tokens


def npmi(counts: RoutingCounts, domain: str) -> Scores:
    """Score by RICE (arXiv 2505.14681): signed sum of normalised PMI of expert and marker token.

    nPMI = [log2(k/M) + log2(N/n_e)] / log2(N/k), with k uses at the marker and M markers (in RICE
    one per trace). Its limits are -1 if the expert never runs at the marker (k = 0), and 0 if every
    token is a marker that uses the expert (k = N).

    Raises:
        ValueError: no marker is declared, or a marker is not in the domain's text.
    """
    sums = counts.of(domain)
    if not counts.markers:
        raise ValueError("npmi needs marker tokens; declare them in the suite or with --marker")
    total = np.zeros_like(sums.used)
    for index, marker in enumerate(counts.markers):
        if not sums.marker_tokens[index]:
            raise ValueError(f"the marker {marker.text!r} is not in the text of {domain!r}")
        uses = sums.marked[index]
        with np.errstate(divide="ignore", invalid="ignore"):
            mutual = np.log2(uses / sums.marker_tokens[index]) + np.log2(sums.tokens / sums.used)
            normal = mutual / np.log2(sums.tokens / uses)
        normal = np.where(uses == 0, -1.0, np.where(uses == sums.tokens, 0.0, normal))
        total += marker.coefficient * normal
    return total


def esft_gate(counts: RoutingCounts, domain: str) -> Scores:
    """Score by ESFT's average gate score (arXiv 2407.01906).

    It is the mean over documents of the expert's mean weight over tokens.
    """
    return counts.of(domain).gate_mean


def esft_token(counts: RoutingCounts, domain: str) -> Scores:
    """Score by ESFT's token selection ratio (arXiv 2407.01906).

    It is the mean over documents of the expert's share of all selections; a layer sums to 1.
    """
    return counts.of(domain).use_mean


def easy_ep(counts: RoutingCounts, domain: str) -> Scores:
    """Score by EASY-EP (arXiv 2504.06792): the expert's share of all contributions in its layer.

    The published method ranks the experts of one layer; the shares make layers comparable.

    Raises:
        ValueError: the pass computed no contributions.
    """
    sums = counts.of(domain)
    if sums.contribution is None:
        raise ValueError("easy-ep needs contributions, but this pass did not compute them")
    share: Scores = sums.contribution / sums.contribution.sum(-1, keepdims=True)
    return share


def reap(counts: RoutingCounts, domain: str) -> Scores:
    """Score by REAP (arXiv 2510.13999): mean of weight x norm of output over the expert's tokens.

    The weight is the one by which the model multiplies the output. (The published code takes a
    softmax of the logits for every router.) An expert that the domain never uses scores 0.

    Raises:
        ValueError: the pass computed no contributions.
    """
    sums = counts.of(domain)
    if sums.gated is None:
        raise ValueError("reap needs contributions, but this pass did not compute them")
    return sums.gated / np.maximum(sums.used, 1e-300)


def lape(counts: RoutingCounts, domain: str) -> Scores:
    """Score by LAPE (arXiv 2402.16438): log D - H of the shares of D domains in a unit's activity.

    A neuron is active on a token if its activation function gives more than zero, an expert if it
    is selected; p_d is its rate in domain d, and H the entropy of p_d / sum_d p_d. A unit scores 0
    for a domain in which its rate is below the 95th percentile of all rates, over units and
    domains, as the published code drops it. (That code then takes the lowest 1 % of H of all units;
    here each domain takes its best.)

    Raises:
        ValueError: there is only one domain.
    """
    if len(counts.domains) < 2:
        raise ValueError("lape compares domains, and needs text of at least one other")
    rates = np.stack([_activity(counts.of(name)) for name in counts.domains])
    total = rates.sum(0)
    share = rates / np.where(total > 0, total, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(share > 0, share * np.log(share), 0.0).sum(0)
    enough = rates[counts.domains.index(domain)] >= np.quantile(rates, _ACTIVE_QUANTILE)
    scores: Scores = np.where(enough & (total > 0), np.log(len(rates)) - entropy, 0.0)
    return scores


def influence(counts: RoutingCounts, domain: str) -> Scores:
    """Score by the influence of a raised logit on the right answers, less the layer's mean.

    Raising any expert alone looks helpful, in all domains alike: the mean over a layer's experts
    takes that out.
    """
    return _centred(_influence(counts, domain)[0])


def influence_net(counts: RoutingCounts, domain: str) -> Scores:
    """Score by `influence` and its effect on the other domains' text, to second order.

    A model that is right has no loss to first order, so that damage shows in the curvature.
    """
    others = [_influence(counts, name)[1] for name in counts.domains if name != domain]
    if not others:
        raise ValueError("influence-net needs text of at least one other domain")
    return _centred(_influence(counts, domain)[0] + np.mean(others, axis=0))


def router_lens(counts: RoutingCounts, domain: str) -> Scores:
    """Score by the change of P(e|D) when the routers alone are tuned on the domain's right answers.

    RouterLens (arXiv 2508.19594) takes the most used experts of the tuned routers; less their use
    before, those that every text uses do not score.

    Raises:
        ValueError: no router was tuned.
    """
    if counts.use_change is None:
        raise ValueError("router-lens needs tuned routers, but this pass did not tune any")
    change: Scores = counts.use_change[counts.domains.index(domain)]
    return change


def _influence(counts: RoutingCounts, domain: str) -> Scores:
    if counts.influence is None:
        raise ValueError("this method needs the influence of experts, which was not computed")
    tables: Scores = counts.influence[counts.domains.index(domain)]
    return tables


def _centred(values: Scores) -> Scores:
    centred: Scores = values - values.mean(-1, keepdims=True)
    return centred


def exposure(counts: RoutingCounts) -> Scores:
    """Compute the share of all domains' tokens that use the expert; controls are matched on it."""
    whole = counts.total()
    return whole.used / whole.tokens


def activation_share(counts: RoutingCounts, experts: Sequence[ChosenExpert]) -> float:
    """Compute the share of these experts in all expert selections, over tokens and layers."""
    uses = counts.total().used
    chosen = sum(float(uses[counts.layers.index(e.layer), e.expert]) for e in experts)
    return chosen / float(uses.sum())


def _activity(sums: Sums) -> Scores:
    rate: Scores = (sums.used if sums.active is None else sums.active) / sums.tokens
    return rate


def _salient(sums: Sums) -> Scores:
    if sums.salient is None:
        raise ValueError("this method needs token saliency, but the pass did not compute it")
    return sums.salient
