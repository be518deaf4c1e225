"""Do the experts of a carved model gather neurons of one domain?

A neuron's lean to a domain is the t of its excess use there, in the dense model. Gathering is the
share of the variance of leans, over the neurons of a layer, that lies between the experts into
which these neurons were carved (eta squared), pooled over layers and domains.

Chance has two forms. Neurons are shuffled among the experts of their layer. And the labels of whole
documents are shuffled, the experts unchanged: neurons that were carved together because they are
active together lean alike to any set of documents, also to one that is no domain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..stats import DocumentCounts, excess_use
from .documents import DocumentRouting

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gathering:
    """The share of the variance of neurons' leans between experts, and by chance.

    Attributes:
        share: pooled over layers and domains.
        by_layer: pooled over domains.
        by_domain: pooled over layers.
        shuffled_neurons: the pooled share of each shuffle of the neurons among experts.
        shuffled_labels: that of each shuffle of the documents' labels.
        p_neurons: (1 + shuffles of neurons that reach the share) / (shuffles + 1).
        p_labels: the same of shuffles of labels.
    """

    share: float
    by_layer: tuple[float, ...]
    by_domain: tuple[float, ...]
    shuffled_neurons: tuple[float, ...]
    shuffled_labels: tuple[float, ...]
    p_neurons: float
    p_labels: float

    def to_dict(self) -> dict[str, object]:
        """Return the content of the report's JSON file."""
        return asdict(self)


def gathering(
    routing: DocumentRouting,
    experts: NDArray[np.int64],
    generator: np.random.Generator,
    shuffles: int = 999,
    advance: Callable[[int], None] = lambda _shuffles: None,
) -> Gathering:
    """Measure how far experts gather neurons of one domain.

    Args:
        routing: the selection of neurons in every document, in the dense model.
        experts: [layers, experts, size], the neurons of each expert of the carved model; neurons
            that are in none are left out.
        generator: random generator of the shuffles.
        shuffles: number of shuffles of each kind, at least 1.
        advance: called with the number of shuffles done, twice `shuffles` in all.

    Raises:
        ValueError: the experts are not of the routing's layers and neurons.
    """
    layers, neurons = routing.used.shape[1:]
    if len(experts) != layers or experts.max() >= neurons:
        raise ValueError(
            f"experts of {len(experts)} layers with neurons up to {experts.max()} are not those of "
            f"{layers} layers of {neurons} neurons"
        )
    counts = routing.counts()
    leans = _leans(counts, layers)
    between, total = _sums(leans, experts)
    share = float(between.sum() / total.sum())
    by_neurons, by_labels = [], []
    for _ in range(shuffles):
        moved = generator.permuted(experts.reshape(layers, -1), axis=1).reshape(experts.shape)
        by_neurons.append(_pooled(leans, moved))
        advance(1)
    for _ in range(shuffles):
        other = replace(counts, labels=generator.permutation(counts.labels))
        by_labels.append(_pooled(_leans(other, layers), experts))
        advance(1)
    return Gathering(
        share=share,
        by_layer=tuple((between.sum(0) / total.sum(0)).tolist()),
        by_domain=tuple((between.sum(1) / total.sum(1)).tolist()),
        shuffled_neurons=tuple(by_neurons),
        shuffled_labels=tuple(by_labels),
        p_neurons=_p_value(share, by_neurons),
        p_labels=_p_value(share, by_labels),
    )


def _leans(counts: DocumentCounts, layers: int) -> Floats:
    """Return the t of each neuron's excess use, [domains, layers, neurons]; 0 where infinite."""
    t = excess_use(counts).statistic
    return np.where(np.isfinite(t), t, 0.0).reshape(len(t), layers, -1)


def _sums(leans: Floats, experts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the sums of squares between experts and in total, [domains, layers] each."""
    rows = np.arange(experts.shape[0])[:, None, None]
    grouped = leans[:, rows, experts]  # [domains, layers, experts, size]
    centred = grouped - grouped.mean((2, 3), keepdims=True)
    between = experts.shape[2] * (centred.mean(3) ** 2).sum(2)
    return between, (centred**2).sum((2, 3))


def _pooled(leans: Floats, experts: NDArray[np.int64]) -> float:
    between, total = _sums(leans, experts)
    return float(between.sum() / total.sum())


def _p_value(share: float, by_chance: list[float]) -> float:
    return (1 + sum(each >= share for each in by_chance)) / (len(by_chance) + 1)
