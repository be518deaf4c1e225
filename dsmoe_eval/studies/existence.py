"""The test whether domain-specific experts exist, which, and whether vocabulary explains them.

An expert is specific to a domain if the domain's tokens use it more than shuffling the
documents' labels explains, with false discoveries controlled over all (layer, expert, domain) of
the model. A model with random weights passes the same test, since it too sends different words to
different experts; a specific expert exceeds that if its excess use is larger than the largest
of any expert for that domain in the random-weight models. That rule was fixed before any result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..progress import progress_bar
from ..stats import (
    ExcessUse,
    benjamini_hochberg,
    bootstrap_intervals,
    chance_jaccard,
    excess_use,
    fewest_discoveries,
    permutation_p_values,
    top_stability,
)
from .documents import DocumentRouting, route_documents
from .results import ExistenceResult

LEVEL = 0.05
"""The false discovery rate over the whole model."""
PERMUTATIONS = 9999
RESAMPLES = 2000
STABILITY_PAIRS = 100
RANDOM_SEEDS = (0, 1, 2)
"""The seeds of the random-weight models, one per model."""


@dataclass(frozen=True, slots=True)
class SpecificExpert:
    """An expert that a domain's tokens use more than chance explains.

    Attributes:
        layer: the model's index of the layer.
        expert: index in the layer.
        rate: share of the domain's tokens that use it.
        rest_rate: share of all other domains' tokens that use it.
        difference: `rate - rest_rate`.
        difference_ci95: its interval, from resampled documents; not allowing for selection.
        lift: `rate / rest_rate`, no use by the rest taken as half a use.
        lift_ci95: its interval.
        p_value: the p-value of the permutation test.
        p_adjusted: after Benjamini and Hochberg, over the whole model.
        exceeds_random: `difference` is larger than the domain's `random_largest`.
    """

    layer: int
    expert: int
    rate: float
    rest_rate: float
    difference: float
    difference_ci95: tuple[float, float]
    lift: float
    lift_ci95: tuple[float, float]
    p_value: float
    p_adjusted: float
    exceeds_random: bool


@dataclass(frozen=True, slots=True)
class DomainExistence:
    """The result for one domain.

    Attributes:
        domain: its name.
        documents: how many were read.
        tokens: how many tokens these documents have.
        specific: its specific experts, the largest difference first.
        exceeding: how many of them exceed the random-weight models.
        by_layer: [layers] specific experts.
        exceeding_by_layer: [layers] those that exceed.
        random_specific: [seeds] specific experts of each random-weight model.
        random_by_layer: [layers] the same by layer, mean over the seeds.
        random_largest: the largest rate difference of any expert of any random-weight model.
        stability: mean Jaccard index of the top `len(specific)` experts by difference, between
            pairs of document resamples; None if nothing is specific.
        stability_by_chance: the index of two sets of as many experts drawn blindly.
    """

    domain: str
    documents: int
    tokens: int
    specific: tuple[SpecificExpert, ...]
    exceeding: int
    by_layer: tuple[int, ...]
    exceeding_by_layer: tuple[int, ...]
    random_specific: tuple[int, ...]
    random_by_layer: tuple[float, ...]
    random_largest: float
    stability: float | None
    stability_by_chance: float | None


@dataclass(frozen=True, slots=True)
class Existence:
    """The result of the test on a model.

    Attributes:
        layers: the model's MoE layers.
        experts: number of routed experts per layer.
        level: the false discovery rate.
        permutations: number of shuffles of the documents' labels.
        resamples: number of resamples of the documents, for the intervals.
        stability_pairs: number of pairs of resamples, for the stability.
        hypotheses: number of (layer, expert, domain) tested.
        fewest_discoveries: the number of permutations cannot declare fewer discoveries than this.
        random_seeds: one per random-weight model.
        domains: one result per domain.
    """

    layers: tuple[int, ...]
    experts: int
    level: float
    permutations: int
    resamples: int
    stability_pairs: int
    hypotheses: int
    fewest_discoveries: int
    random_seeds: tuple[int, ...]
    domains: tuple[DomainExistence, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Tested:
    """The figures of one model, all [domains, units]."""

    effect: ExcessUse
    p_value: NDArray[np.float64]
    p_adjusted: NDArray[np.float64]
    specific: NDArray[np.bool_]


def existence(
    model: DocumentRouting,
    random: Mapping[int, DocumentRouting],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    on_block: Callable[[int], None] = lambda _permutations: None,
) -> Existence:
    """Test a model beside random-weight models of the same shape, on the same documents.

    Args:
        model: the model's routing.
        random: seed -> routing of the random-weight model drawn from it, at least one.
        permutations: shuffles of labels; every model gets the same.
        seed: the seed of shuffles and resamples.
        on_block: called with the number of shuffles done, `permutations` for every model.

    Raises:
        ValueError: the models differ in shape or documents, or as in `DocumentCounts`.
    """
    _check_alike(model, random)
    learned = _test(model, permutations, seed, on_block)
    untrained = [_test(each, permutations, seed, on_block) for each in random.values()]
    counts, chosen = model.counts(), learned.specific.sum(1)
    generator = np.random.default_rng([seed, 1])
    intervals = bootstrap_intervals(counts, generator, RESAMPLES)
    bounds = np.stack([intervals.difference, intervals.lift])
    stability = top_stability(counts, chosen, generator, STABILITY_PAIRS)
    return Existence(
        layers=model.layers,
        experts=model.used.shape[2],
        level=LEVEL,
        permutations=permutations,
        resamples=RESAMPLES,
        stability_pairs=STABILITY_PAIRS,
        hypotheses=learned.p_value.size,
        fewest_discoveries=fewest_discoveries(learned.p_value.size, permutations, LEVEL),
        random_seeds=tuple(random),
        domains=tuple(
            _domain(model, index, learned, untrained, bounds[:, :, index], stability[index])
            for index in range(len(model.domains))
        ),
    )


def _check_alike(model: DocumentRouting, random: Mapping[int, DocumentRouting]) -> None:
    if not random:
        raise ValueError("there is no random-weight model; give at least one")
    for other in random.values():
        if other.used.shape != model.used.shape or other.domains != model.domains:
            raise ValueError("a random-weight model differs from the model in shape or domains")
        if (other.tokens != model.tokens).any() or (other.labels != model.labels).any():
            raise ValueError("a random-weight model read other documents than the model")


def _test(
    routing: DocumentRouting, permutations: int, seed: int, on_block: Callable[[int], None]
) -> _Tested:
    counts = routing.counts()
    generator = np.random.default_rng([seed, 0])
    p_value = permutation_p_values(counts, generator, permutations, on_block)
    p_adjusted = benjamini_hochberg(p_value)
    return _Tested(excess_use(counts), p_value, p_adjusted, p_adjusted <= LEVEL)


def _domain(
    model: DocumentRouting,
    index: int,
    learned: _Tested,
    untrained: Sequence[_Tested],
    bounds: NDArray[np.float64],
    stability: float,
) -> DomainExistence:
    """Return one domain's result; `bounds` is [difference and lift, lower and upper, units]."""
    largest = max(float(each.effect.difference[index].max()) for each in untrained)
    specific = learned.specific[index]
    exceeding = specific & (learned.effect.difference[index] > largest)
    order = np.argsort(-learned.effect.difference[index], kind="stable")
    members = model.labels == index
    shape, count = model.used.shape[1:], int(specific.sum())
    random = np.stack([each.specific[index] for each in untrained])
    return DomainExistence(
        domain=model.domains[index],
        documents=int(members.sum()),
        tokens=int(model.tokens[members].sum()),
        specific=tuple(
            _expert(model.layers, shape[1], index, int(unit), learned, bounds, exceeding)
            for unit in order
            if specific[unit]
        ),
        exceeding=int(exceeding.sum()),
        by_layer=tuple(specific.reshape(shape).sum(1).tolist()),
        exceeding_by_layer=tuple(exceeding.reshape(shape).sum(1).tolist()),
        random_specific=tuple(random.sum(1).tolist()),
        random_by_layer=tuple(random.reshape(-1, *shape).sum(2).mean(0).tolist()),
        random_largest=largest,
        stability=float(stability) if count else None,
        stability_by_chance=chance_jaccard(count, specific.size) if count else None,
    )


def _expert(
    layers: Sequence[int],
    experts: int,
    index: int,
    unit: int,
    learned: _Tested,
    bounds: NDArray[np.float64],
    exceeding: NDArray[np.bool_],
) -> SpecificExpert:
    effect = learned.effect
    (difference_ci95, lift_ci95) = (tuple(pair) for pair in bounds[:, :, unit].tolist())
    return SpecificExpert(
        layer=layers[unit // experts],
        expert=unit % experts,
        rate=float(effect.rate[index, unit]),
        rest_rate=float(effect.rest_rate[index, unit]),
        difference=float(effect.difference[index, unit]),
        difference_ci95=difference_ci95,
        lift=float(effect.lift[index, unit]),
        lift_ci95=lift_ci95,
        p_value=float(learned.p_value[index, unit]),
        p_adjusted=float(learned.p_adjusted[index, unit]),
        exceeds_random=bool(exceeding[unit]),
    )


def existence_of(
    name: str,
    suite_name: str,
    *,
    permutations: int = PERMUTATIONS,
    limit: int | None = None,
    device: str | None = None,
    console: Console | None = None,
    data: Sequence[Path] = (),
) -> ExistenceResult:
    """Test a model on a suite's identification text; see `route_documents` and `existence`.

    Returns:
        `Existence.to_dict()` and `ComparedRouting.about`, merged.

    Raises:
        UserError: unknown model or suite, or too few domains or documents.
    """
    console = console or Console(stderr=True)
    routing = route_documents(
        name, suite_name, RANDOM_SEEDS, limit=limit, device=device, console=console, data=data
    )
    total = (1 + len(routing.random)) * permutations
    with progress_bar(console, "shuffle labels", total, "shuffles") as advance:
        result = existence(
            routing.model, routing.random, permutations=permutations, on_block=advance
        )
    return cast(ExistenceResult, routing.about | result.to_dict())
