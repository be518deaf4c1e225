"""The content of `simsmoe.json`."""

from __future__ import annotations

from typing import TypedDict

from ..stats import Bounds


class SpecificExperts(TypedDict):
    """How many (layer, expert, domain) the existence test finds, by one basis.

    Attributes:
        specific: in the model.
        random: in a model of its shape with random weights.
        shuffled: in the model with shuffled routers.
    """

    specific: int
    random: int
    shuffled: int


class CheckpointMeasures(TypedDict):
    """A checkpoint's measures.

    Attributes:
        step: number of steps done.
        counts: experts that are specific by use.
        influence: experts that are specific by influence on the text.
    """

    step: int
    counts: SpecificExperts
    influence: SpecificExperts


class SimilarityMeasures(TypedDict):
    """Debiased CKA of all pairs of a layer's experts, on the same tokens; means over layers.

    Attributes:
        experts: of the experts.
        shuffled: of their outputs in random order: unrelated ones.
        random: of experts with random weights.
        effective_rank: of the experts' matrix, from 1 to their number.
    """

    experts: float
    shuffled: float
    random: float
    effective_rank: float


class ModelMeasures(TypedDict):
    """The measures of one trained model.

    Attributes:
        objective: its objective.
        seed: its seed.
        bits: bits of each document kept for measuring.
        characters: their characters.
        entropy: of the load over a layer's experts, 1 if even; mean over layers.
        largest: the largest share of the load of any expert.
        linear: similarity by the linear kernel.
        rbf: similarity by an RBF kernel as wide as the median distance.
        checkpoints: along training; the last is the model.
        losses: the logged steps of the training.
    """

    objective: str
    seed: int
    bits: list[float]
    characters: list[int]
    entropy: float
    largest: float
    linear: SimilarityMeasures
    rbf: SimilarityMeasures
    checkpoints: list[CheckpointMeasures]
    losses: list[dict[str, float | None]]


class SeedSpread(TypedDict):
    """A mean over seeds.

    Attributes:
        mean: the mean.
        over_seeds: its 95 % interval, by Student's t; None with one seed.
    """

    mean: float
    over_seeds: Bounds | None


class ObjectiveRow(TypedDict):
    """The measures of an objective over its seeds.

    Attributes:
        objective: its name.
        bits: bits per character of text kept for measuring.
        bits_over_documents: the interval of their mean over documents.
        less_balance: bits per character less those of `balance` with the same seeds; None for
            `balance`, or if that was not trained.
        less_balance_over_documents: the interval of this over documents.
        similarity: debiased linear CKA of the experts.
        similarity_less_balance: the same less that of `balance` with the same seeds.
        similarity_rbf: by the RBF kernel.
        shuffled: linear CKA of unrelated outputs.
        random: linear CKA of random experts.
        effective_rank: by the linear kernel.
        entropy: of the load.
        counts: number of experts specific by use.
        influence: number of experts specific by influence.
        counts_less_balance: by use, less those of `balance`.
        influence_less_balance: by influence, less those of `balance`.
        pairs: the share of the logged steps in which the similarity loss compared pairs, and their
            mean similarity, as the loss computes it, in the first and the last tenth of these
            steps; None: no pair was compared.
    """

    objective: str
    bits: SeedSpread
    bits_over_documents: Bounds | None
    less_balance: SeedSpread | None
    less_balance_over_documents: Bounds | None
    similarity: SeedSpread
    similarity_less_balance: SeedSpread | None
    similarity_rbf: SeedSpread
    shuffled: SeedSpread
    random: SeedSpread
    effective_rank: SeedSpread
    entropy: SeedSpread
    counts: SeedSpread
    influence: SeedSpread
    counts_less_balance: SeedSpread | None
    influence_less_balance: SeedSpread | None
    pairs: tuple[float, float, float] | None


class SaturationRow(TypedDict):
    """The level of each estimator for unrelated outputs.

    Attributes:
        tokens: number of tokens.
        deviation: standard deviation of the outputs, in each of 16 dimensions.
        published: the mean of the published estimator over draws.
        biased: that of the biased linear estimator.
        debiased: that of the debiased linear one.
    """

    tokens: int
    deviation: float
    published: float
    biased: float
    debiased: float


class SimsmoeResult(TypedDict):
    """The content of `simsmoe.json`.

    Attributes:
        steps: steps of each training.
        characters_trained: number of characters of the text that is trained on.
        characters_read: number of characters that a training reads.
        documents: number of documents kept for measuring.
        hypotheses: number of tested (layer, expert, domain).
        parameters: number of a model's parameters.
        seeds: the seeds.
        objectives: one row per objective.
        saturation: the estimators on unrelated outputs.
        models: the measures of each trained model.
    """

    steps: int
    characters_trained: int
    characters_read: int
    documents: int
    hypotheses: int
    parameters: int
    seeds: list[int]
    objectives: list[ObjectiveRow]
    saturation: list[SaturationRow]
    models: list[ModelMeasures]
