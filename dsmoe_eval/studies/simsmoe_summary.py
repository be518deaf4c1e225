"""Summaries of the trained models of `simsmoe` over seeds and documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ..experts.similarity import cka
from ..experts.similarity_losses import debiased_cka, published_cka
from ..stats import Bounds, mean_interval, ratio_interval
from .simsmoe_results import ModelMeasures, ObjectiveRow, SaturationRow, SeedSpread

BESIDE = "balance"
"""The objective that the others are compared with, seed by seed."""
DRAWS, DIMENSIONS = 20, 16
_SIZES, _DEVIATIONS = (8, 32, 100, 400), (0.5, 1.0)
Value = Callable[[ModelMeasures], float]


def objective_rows(models: Sequence[ModelMeasures]) -> list[ObjectiveRow]:
    """Summarise each objective over its seeds, in the order of the models.

    Raises:
        ValueError: two models have one objective and seed, or a model has no partner of `BESIDE`
            with its seed and documents although others have.
    """
    by_name: dict[str, dict[int, ModelMeasures]] = {}
    for one in models:
        of_name = by_name.setdefault(one["objective"], {})
        if one["seed"] in of_name:
            raise ValueError(f"two models of {one['objective']} have seed {one['seed']}")
        of_name[one["seed"]] = one
    partners = by_name.get(BESIDE)
    return [
        _row(list(found.values()), None if partners is None else _beside(found, partners))
        for found in by_name.values()
    ]


def _beside(
    models: Mapping[int, ModelMeasures], partners: Mapping[int, ModelMeasures]
) -> list[ModelMeasures]:
    """Return the partner of each model, by its seed."""
    for seed, one in models.items():
        if seed not in partners:
            raise ValueError(f"no model of {BESIDE} has seed {seed}, as {one['objective']} has")
        if partners[seed]["characters"] != one["characters"]:
            raise ValueError(f"{one['objective']} and {BESIDE} of seed {seed} have other documents")
    return [partners[seed] for seed in models]


def bits_per_character(model: ModelMeasures) -> float:
    """Return the bits per character of all documents kept for measuring of a model."""
    return sum(model["bits"]) / sum(model["characters"])


def _row(models: Sequence[ModelMeasures], beside: Sequence[ModelMeasures] | None) -> ObjectiveRow:
    def spread(value: Value) -> SeedSpread:
        return _spread([value(one) for one in models])

    def less(value: Value) -> SeedSpread | None:
        if beside is None or models[0]["objective"] == BESIDE:
            return None
        pairs = zip(models, beside, strict=True)
        return _spread([value(one) - value(other) for one, other in pairs])

    def similarity(one: ModelMeasures) -> float:
        return one["linear"]["experts"]

    def specific(one: ModelMeasures) -> float:
        return one["checkpoints"][-1]["counts"]["specific"]

    def influential(one: ModelMeasures) -> float:
        return one["checkpoints"][-1]["influence"]["specific"]

    return ObjectiveRow(
        objective=models[0]["objective"],
        bits=spread(bits_per_character),
        bits_over_documents=_over_documents(models),
        less_balance=less(bits_per_character),
        less_balance_over_documents=(
            None if less(bits_per_character) is None else _over_documents(models, beside)
        ),
        similarity=spread(similarity),
        similarity_less_balance=less(similarity),
        similarity_rbf=spread(lambda one: one["rbf"]["experts"]),
        shuffled=spread(lambda one: one["linear"]["shuffled"]),
        random=spread(lambda one: one["linear"]["random"]),
        effective_rank=spread(lambda one: one["linear"]["effective_rank"]),
        entropy=spread(lambda one: one["entropy"]),
        counts=spread(specific),
        influence=spread(influential),
        counts_less_balance=less(specific),
        influence_less_balance=less(influential),
        pairs=_pairs(models),
    )


def _spread(values: Sequence[float]) -> SeedSpread:
    return {"mean": float(np.mean(values)), "over_seeds": mean_interval(values)}


def _over_documents(
    models: Sequence[ModelMeasures], beside: Sequence[ModelMeasures] | None = None
) -> Bounds | None:
    """Return the interval over documents of the seeds' mean, or of its difference to others'."""
    bits = np.mean([one["bits"] for one in models], axis=0)
    if beside is not None:
        bits = bits - np.mean([one["bits"] for one in beside], axis=0)
    return ratio_interval(bits, models[0]["characters"])


def _pairs(models: Sequence[ModelMeasures]) -> tuple[float, float, float] | None:
    """Return in which share of the logged steps pairs were compared, and their similarity.

    It is the mean of the first and of the last tenth of these steps.
    """
    logged, compared = 0, list[list[float]]()
    for model in models:
        logged += len(model["losses"])
        found = [one["similarities"] for one in model["losses"]]
        compared.append([value for value in found if value is not None])
    if not any(compared):
        return None
    first, last = list[float](), list[float]()
    for values in compared:
        tenth = max(1, len(values) // 10)
        first += values[:tenth]
        last += values[-tenth:]
    return sum(map(len, compared)) / logged, float(np.mean(first)), float(np.mean(last))


def saturation_rows() -> list[SaturationRow]:
    """Compute the level of each estimator for independent Gaussian outputs, mean over draws."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for deviation in _DEVIATIONS:
        for size in _SIZES:
            drawn = [
                deviation
                * torch.randn(2, size, DIMENSIONS, dtype=torch.float64, generator=generator)
                for _ in range(DRAWS)
            ]
            rows.append(
                SaturationRow(
                    tokens=size,
                    deviation=deviation,
                    published=float(np.mean([published_cka(*one) for one in drawn])),
                    biased=float(np.mean([cka(*one, debiased=False) for one in drawn])),
                    debiased=float(np.mean([debiased_cka(*one) for one in drawn])),
                )
            )
    return rows
