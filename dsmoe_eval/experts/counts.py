"""Routing counts: what every score is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .observe import Observations

SALIENCY_QUANTILE = 0.15
"""Eq. 8's threshold: the paper calls 0.15 to 0.5 effective and its code uses 0.15."""


@dataclass(frozen=True, slots=True)
class RoutingCounts:
    """How often each (layer, expert) was in the top-k, by domain and by token class.

    Attributes:
        domains: names, in the order of the first axis.
        layers: the model's MoE layers, in the order of the second axis.
        tokens: [domains] tokens seen.
        used: [domains, layers, experts] tokens for which the expert was selected.
        used_salient: the same, over salient tokens (the paper's domain tokens S) only.
    """

    domains: tuple[str, ...]
    layers: tuple[int, ...]
    tokens: NDArray[np.int64]
    used: NDArray[np.int64]
    used_salient: NDArray[np.int64]

    def index(self, domain: str) -> int:
        """Position of a domain on the first axis.

        Raises:
            ValueError: no text of that domain was seen.
        """
        if domain not in self.domains:
            raise ValueError(f"no text of domain {domain!r} was seen; seen: {list(self.domains)}")
        return self.domains.index(domain)


def count_routing(observations: Observations, quantile: float = SALIENCY_QUANTILE) -> RoutingCounts:
    """Count; a token is salient when it lies above the `quantile` of its own domain's saliency."""
    salient = np.zeros(len(observations.domain), dtype=bool)
    for index in range(len(observations.domains)):
        own = observations.domain == index
        salient[own] = observations.saliency[own] > np.quantile(
            observations.saliency[own], quantile
        )
    return RoutingCounts(
        domains=observations.domains,
        layers=observations.layers,
        tokens=np.bincount(observations.domain, minlength=len(observations.domains)),
        used=_count(observations, np.ones_like(salient)),
        used_salient=_count(observations, salient),
    )


def _count(observations: Observations, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    domains, layers = len(observations.domains), len(observations.layers)
    experts = observations.experts[kept].astype(np.int64)
    row = observations.domain[kept, None] * layers + np.arange(layers)
    flat = (row[:, :, None] * observations.expert_count + experts).ravel()
    counts = np.bincount(flat, minlength=domains * layers * observations.expert_count)
    return counts.reshape(domains, layers, observations.expert_count)
