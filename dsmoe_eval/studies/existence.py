"""The test whether domain-specific experts exist, which, and whether vocabulary explains them.

An expert is specific to a domain if the domain's tokens use it more than shuffling the
documents' labels explains, with false discoveries controlled over all (layer, expert, domain) of
the model. A model with random weights passes the same test, since it too sends different words to
different experts; a specific expert exceeds that if its excess use is larger than the largest
of any expert for that domain in the random-weight models. That rule was fixed before any result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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
from ..tasks.identification import TextSource
from .documents import DocumentRouting, route_documents
from .results import DomainExistenceRow, Existence, ExistenceResult, SpecificExpertRow

LEVEL = 0.05
"""The false discovery rate over the whole model."""
PERMUTATIONS = 9999
RESAMPLES = 2000
STABILITY_PAIRS = 100
RANDOM_SEEDS = (0, 1, 2)
"""The seeds of the random-weight models, one per model."""


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
        layers=list(model.layers),
        experts=model.used.shape[2],
        level=LEVEL,
        permutations=permutations,
        resamples=RESAMPLES,
        stability_pairs=STABILITY_PAIRS,
        hypotheses=learned.p_value.size,
        fewest_discoveries=fewest_discoveries(learned.p_value.size, permutations, LEVEL),
        random_seeds=list(random),
        domains=[
            _domain(model, index, learned, untrained, bounds[:, :, index], stability[index])
            for index in range(len(model.domains))
        ],
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
) -> DomainExistenceRow:
    """Return one domain's result; `bounds` is [difference and lift, lower and upper, units]."""
    largest = max(float(each.effect.difference[index].max()) for each in untrained)
    specific = learned.specific[index]
    exceeding = specific & (learned.effect.difference[index] > largest)
    order = np.argsort(-learned.effect.difference[index], kind="stable")
    members = model.labels == index
    shape, count = model.used.shape[1:], int(specific.sum())
    random = np.stack([each.specific[index] for each in untrained])
    return DomainExistenceRow(
        domain=model.domains[index],
        documents=int(members.sum()),
        tokens=int(model.tokens[members].sum()),
        specific=[
            _expert(model.layers, shape[1], index, int(unit), learned, bounds, exceeding)
            for unit in order
            if specific[unit]
        ],
        exceeding=int(exceeding.sum()),
        by_layer=specific.reshape(shape).sum(1).tolist(),
        exceeding_by_layer=exceeding.reshape(shape).sum(1).tolist(),
        random_specific=random.sum(1).tolist(),
        random_by_layer=random.reshape(-1, *shape).sum(2).mean(0).tolist(),
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
) -> SpecificExpertRow:
    effect = learned.effect
    (difference_ci95, lift_ci95) = (tuple(pair) for pair in bounds[:, :, unit].tolist())
    return SpecificExpertRow(
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
    source: str | TextSource,
    *,
    permutations: int = PERMUTATIONS,
    limit: int | None = None,
    device: str | None = None,
    console: Console | None = None,
    data: Sequence[Path] = (),
) -> ExistenceResult:
    """Test a model on identification text; see `route_documents` and `existence`.

    Returns:
        The figures of `existence` and `ComparedRouting.about`, merged.

    Raises:
        UserError: unknown model or suite, or too few domains or documents.
    """
    console = console or Console(stderr=True)
    routing = route_documents(
        name, source, RANDOM_SEEDS, limit=limit, device=device, console=console, data=data
    )
    total = (1 + len(routing.random)) * permutations
    with progress_bar(console, "shuffle labels", total, "shuffles") as advance:
        result = existence(
            routing.model, routing.random, permutations=permutations, on_block=advance
        )
    return cast(ExistenceResult, routing.about | dict(result))
