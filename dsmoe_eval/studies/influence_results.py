"""The content of `influence.json`."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class InfluenceEntry(TypedDict):
    """The influence of one expert; `centred` is less the mean over its layer."""

    layer: int
    expert: int
    influence: float
    centred: float
    error: float | None


class InfluenceRow(TypedDict):
    """The influence of all experts on the items of a domain.

    Attributes:
        domain: the domain.
        items: the number of items.
        clusters: the number of clusters that they form, such as documents.
        outcome: the mean outcome without a shift, in nats: log-probability of the right option, or
            log-likelihood of an answer or, per token, of a text.
        influence: [layers][experts] the mean change of the outcome per unit of the shift; of
            neurons [layers][columns], added up: what scaling the whole column does.
        error: [layers][experts] its standard error by clusters; None with one cluster, or of
            neurons.
        curvature: [layers][experts] the mean second derivative of the outcome's expectation; None
            of neurons.
        above: how many have t above `CLEAR`; None with one cluster. `below` likewise.
        largest: those with the largest influence less the layer's mean, at most `MOST_LISTED`.
    """

    domain: str
    items: int
    clusters: int
    outcome: float
    influence: list[list[float]]
    error: list[list[float]] | None
    curvature: list[list[float]] | None
    above: int | None
    below: int | None
    largest: list[InfluenceEntry]


class InfluenceResult(TypedDict):
    """The content of `influence.json`.

    Attributes:
        model: the name and the fingerprint of the model.
        dtype: its dtype.
        device: the type of the device.
        source: the suite or file of the items.
        form: `exact`, in which the router selects again, or `gradient`.
        channel: what is raised: `logit`, `weight` or `score`; of neurons `factor`.
        step: the step of the exact form, in `unit`; None for the gradient form.
        unit: `sigma` or `odds`; of neurons `factor`: s where a neuron is multiplied by 1 + s.
        steps: [layers] the step of each layer in log-odds; None for the gradient form.
        tokens: the number of tokens read.
        texts: the number of texts.
        experts: the number of experts per layer.
        layers: the MoE layers.
        domains: one row per domain.
        units: what the experts are, if they are neurons.
        column: of neurons, how many neighbours are added up in a column.
    """

    model: dict[str, str]
    dtype: str
    device: str
    source: str
    form: str
    channel: str
    step: float | None
    unit: str
    steps: list[float] | None
    tokens: int
    texts: int
    experts: int
    layers: list[int]
    domains: list[InfluenceRow]
    units: NotRequired[str]
    column: NotRequired[int]
