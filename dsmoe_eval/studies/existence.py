"""The test whether domain-specific experts exist, which, and whether vocabulary explains them.

An expert is specific to a domain if the domain's tokens use it more than shuffling the
documents' labels explains, with false discoveries controlled over all (layer, expert, domain) of
the model. A model with random weights passes the same test, since it too sends different words to
different experts. So the model is compared with control models that read the same documents, by
the number of specific experts and by t, the excess use over its standard error: an expert is beyond
a control if its t is larger than the largest of any expert for that domain in all models of the
control. Raw excess use would compare noise: with few documents it is large in any model. If the
model were one more model of the control, every order of the N + 1 models would be equally likely,
however much the domains and experts have in common; all p-values follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..stats import (
    DocumentSums,
    ExcessUse,
    benjamini_hochberg,
    bootstrap_intervals,
    chance_jaccard,
    excess_use,
    fewest_discoveries,
    permutation_p_values,
    top_stability,
)
from .documents import DocumentRouting
from .results import (
    Basis,
    Control,
    ControlRow,
    ControlSummary,
    DomainExistenceRow,
    Existence,
    SpecificExpertRow,
)

LEVEL = 0.05
"""The false discovery rate over the whole model."""
PERMUTATIONS = 9999
RESAMPLES = 2000
STABILITY_PAIRS = 100
MOST_LISTED = 200
"""Specific neurons of a domain that have a row; there may be tens of thousands."""
CONTROL_MODELS = 3
"""The number of control models of each kind. With so few nothing can be shown at 5 %; a large model
takes long, so that more of them are the user's choice."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The figures of one model, all [domains, units]."""

    effect: ExcessUse
    p_value: NDArray[np.float64]
    p_adjusted: NDArray[np.float64]
    specific: NDArray[np.bool_]


def existence(
    model: DocumentRouting,
    controls: Mapping[Control, Sequence[DocumentRouting]],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    most_listed: int | None = None,
    on_block: Callable[[int], None] = lambda _permutations: None,
    by: Basis = "counts",
) -> Existence:
    """Test a model beside control models of the same shape, on the same documents.

    Args:
        model: the model's routing.
        controls: the routing of the control models of each kind, as many of each.
        permutations: shuffles of labels; every model gets the same.
        seed: the seed of shuffles and resamples.
        most_listed: the most specific experts of a domain that get a row, with intervals; None:
            all.
        on_block: called with the number of shuffles done, `permutations` for every model.
        by: what experts are specific by.

    Raises:
        ValueError: the models differ in shape or documents, or as in `DocumentRouting.sums`.
    """
    _check_alike(model, controls)
    learned = examine(model, permutations, seed, on_block, by)
    beside = {
        kind: [examine(each, permutations, seed, on_block, by) for each in models]
        for kind, models in controls.items()
    }
    counts, chosen = model.sums(by), learned.specific.sum(1)
    generator = np.random.default_rng([seed, 1])
    orders = _listed(learned, most_listed)
    bounds = _bounds(counts, None if most_listed is None else orders, generator)
    stability = top_stability(counts, chosen, generator, STABILITY_PAIRS)
    return Existence(
        layers=list(model.layers),
        experts=model.used.shape[2],
        level=LEVEL,
        permutations=permutations,
        resamples=RESAMPLES,
        stability_pairs=STABILITY_PAIRS,
        hypotheses=learned.p_value.size,
        fewest_discoveries=fewest_discoveries(learned.p_value.size, permutations, LEVEL),
        control_models=len(next(iter(controls.values()))),
        controls={kind: summary_of(learned, models) for kind, models in beside.items()},
        domains=[
            _domain(model, index, learned, beside, bounds[:, :, index], stability[index], order)
            for index, order in enumerate(orders)
        ],
    )


def _listed(learned: Examined, most: int | None) -> list[NDArray[np.int64]]:
    """Return the specific experts that get a row, by domain, the largest t first."""
    orders = []
    for t, specific in zip(learned.effect.statistic, learned.specific, strict=True):
        order = np.argsort(-t, kind="stable")
        orders.append(order[specific[order]][:most])
    return orders


def _bounds(
    counts: DocumentSums,
    orders: Sequence[NDArray[np.int64]] | None,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the intervals of the experts in some orders, or of all; NaN for others.

    Returns:
        [difference and lift, lower and upper, domains, units].
    """
    every = np.arange(counts.used.shape[1])
    units = every if orders is None else np.unique(np.concatenate(orders))
    bounds = np.full((2, 2, counts.domains, len(every)), np.nan)
    few = replace(counts, used=counts.used[:, units])
    intervals = bootstrap_intervals(few, generator, RESAMPLES)
    bounds[..., units] = np.stack([intervals.difference, intervals.lift])
    return bounds


def _check_alike(
    model: DocumentRouting, controls: Mapping[Control, Sequence[DocumentRouting]]
) -> None:
    if not controls or len({len(models) for models in controls.values()}) > 1:
        raise ValueError("give as many control models of each kind")
    if not all(controls.values()):
        raise ValueError("there is no control model; give at least one of each kind")
    for other in (each for models in controls.values() for each in models):
        if other.used.shape != model.used.shape or other.domains != model.domains:
            raise ValueError("a control model differs from the model in shape or domains")
        if (other.tokens != model.tokens).any() or (other.labels != model.labels).any():
            raise ValueError("a control model read other documents than the model")


def examine(
    routing: DocumentRouting,
    permutations: int,
    seed: int,
    on_block: Callable[[int], None] = lambda _permutations: None,
    by: Basis = "counts",
) -> Examined:
    """Test one model; see `existence`."""
    counts = routing.sums(by)
    generator = np.random.default_rng([seed, 0])
    p_value = permutation_p_values(counts, generator, permutations, on_block)
    p_adjusted = benjamini_hochberg(p_value)
    return Examined(excess_use(counts), p_value, p_adjusted, p_adjusted <= LEVEL)


def beyond_of(learned: Examined, models: Sequence[Examined]) -> NDArray[np.bool_]:
    """Return which specific experts have a larger t than any of the models', [domains, units]."""
    largest = np.max([each.effect.statistic.max(1) for each in models], axis=0)
    beyond: NDArray[np.bool_] = learned.specific & (learned.effect.statistic > largest[:, None])
    return beyond


def summary_of(learned: Examined, models: Sequence[Examined]) -> ControlSummary:
    """Return the comparison of a model with the models of a control, over all domains."""
    discoveries = [int(each.specific.sum()) for each in models]
    domains, beyond = len(learned.specific), int(beyond_of(learned, models).any(1).sum())
    as_many = sum(each >= learned.specific.sum() for each in discoveries)
    return ControlSummary(
        discoveries=discoveries,
        p_by_number=float(1 + as_many) / (len(models) + 1),
        domains_beyond=beyond,
        p_by_strength=min(1.0, domains / (beyond * (len(models) + 1))) if beyond else 1.0,
    )


def _control(
    index: int, shape: tuple[int, ...], learned: Examined, models: Sequence[Examined]
) -> ControlRow:
    specific = np.stack([each.specific[index] for each in models])
    beyond = beyond_of(learned, models)[index]
    return ControlRow(
        specific=specific.sum(1).tolist(),
        by_layer=specific.reshape(-1, *shape).sum(2).mean(0).tolist(),
        largest=max(float(each.effect.difference[index].max()) for each in models),
        largest_statistic=_finite(max(each.effect.statistic[index].max() for each in models)),
        beyond=int(beyond.sum()),
        beyond_by_layer=beyond.reshape(shape).sum(1).tolist(),
    )


def _finite(statistic: np.float64) -> float | None:
    """Return a number that JSON can hold."""
    return float(statistic) if np.isfinite(statistic) else None


def _domain(
    model: DocumentRouting,
    index: int,
    learned: Examined,
    beside: Mapping[Control, Sequence[Examined]],
    bounds: NDArray[np.float64],
    stability: float,
    order: NDArray[np.int64],
) -> DomainExistenceRow:
    """Return one domain's result; `bounds` is [difference and lift, lower and upper, units]."""
    specific = learned.specific[index]
    beyond = {kind: beyond_of(learned, models)[index] for kind, models in beside.items()}
    members = model.labels == index
    shape, count = model.used.shape[1:], int(specific.sum())
    return DomainExistenceRow(
        domain=model.domains[index],
        documents=int(members.sum()),
        tokens=int(model.tokens[members].sum()),
        specific=[
            _expert(model.layers, shape[1], index, int(unit), learned, bounds, beyond)
            for unit in order
        ],
        by_layer=specific.reshape(shape).sum(1).tolist(),
        largest_statistic=_finite(learned.effect.statistic[index].max()),
        controls={kind: _control(index, shape, learned, each) for kind, each in beside.items()},
        stability=float(stability) if count else None,
        stability_by_chance=chance_jaccard(count, specific.size) if count else None,
    )


def _expert(
    layers: Sequence[int],
    experts: int,
    index: int,
    unit: int,
    learned: Examined,
    bounds: NDArray[np.float64],
    beyond: Mapping[Control, NDArray[np.bool_]],
) -> SpecificExpertRow:
    effect = learned.effect
    (difference_ci95, lift_ci95) = (tuple(pair) for pair in bounds[:, :, unit].tolist())
    lift = _finite(effect.lift[index, unit])
    return SpecificExpertRow(
        layer=layers[unit // experts],
        expert=unit % experts,
        rate=float(effect.rate[index, unit]),
        rest_rate=float(effect.rest_rate[index, unit]),
        difference=float(effect.difference[index, unit]),
        difference_ci95=difference_ci95,
        statistic=_finite(effect.statistic[index, unit]),
        lift=lift,
        lift_ci95=None if lift is None else lift_ci95,
        p_value=float(learned.p_value[index, unit]),
        p_adjusted=float(learned.p_adjusted[index, unit]),
        beyond={kind: bool(experts_beyond[unit]) for kind, experts_beyond in beyond.items()},
    )
