"""What became of steering on another checkpoint: the content of `regression.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .arms import VariantName
from .outcomes import Ends
from .paired import Name, Number, Record, Score

REGRESSION_VERSION: Literal[1] = 1
"""The version of the schema of `regression.json`."""


class Side(Record):
    """One of the two runs.

    Attributes:
        model: the name of its model; `fingerprint` is the hash of the weights.
        run: the run's folder.
        root_hash: the hash of the run's files, as `run` prints it.
    """

    model: str
    fingerprint: str
    run: str
    root_hash: str


class GainDifference(Record):
    """The gain over base on the new model against that on the old one, on the same items.

    Attributes:
        clusters: number of clusters of dependent items; the number of items if all are independent.
        old_gain: the mean gain on the old model, in the unit of the outcome; `new_gain` likewise.
        difference: the new gain less the old one.
        ci95: its 95 % interval; None where the items are one cluster.
        mde80: the smallest difference that is shown with 80 % power; None where there is none.
        p_adjusted: the p-value adjusted by Holm over all arms and targets.
        verdict: `improves`, `harms`, `equivalent` within the margin, or `inconclusive`.
        claim: the verdict with its figures.
    """

    n: Annotated[int, Field(ge=1)]
    clusters: Number
    old_gain: float
    new_gain: float
    difference: float
    ci95: Ends | None
    p_value: Score
    test: str
    mde80: Annotated[float, Field(ge=0)] | None
    p_adjusted: Score
    verdict: Literal["improves", "harms", "equivalent", "inconclusive"]
    claim: str


class SharedExperts(Record):
    """The experts that the two profiles of an arm have in common.

    Attributes:
        old: the number of experts of the old profile; `new` that of the new one.
        jaccard: those in both over those in either.
        by_chance: the mean Jaccard index of blind choices of as many experts in each layer.
    """

    old: Number
    new: Number
    jaccard: Score
    by_chance: Score


class ArmRegression(Record):
    """An arm on one target.

    Attributes:
        improved_old: whether it improved its target on the old model; `improved_new` likewise.
        old_claim: what it may claim there, in words; `new_claim` likewise.
        gain: gain against gain on the target, by the plan's primary outcome.
        elsewhere: the same of the change on all non-targets together.
        experts: the experts that both profiles have; None for an arm that steers no experts, and
            where the two models differ in layers or experts.
    """

    variant: VariantName
    target: Name
    improved_old: bool
    improved_new: bool
    old_claim: str
    new_claim: str
    gain: GainDifference
    elsewhere: GainDifference
    experts: SharedExperts | None


class RoutingAgreement(Record):
    """How far the two models send the tokens of the identification text to the same experts.

    Attributes:
        tokens: the number of tokens, of prompts only.
        layers: the MoE layers.
        shared: the share of selections, over all tokens and layers, that both models make.
        by_chance: the share if the tokens of one model were shuffled: what the experts' overall
            use alone gives.
        shared_by_layer: `shared` of each layer.
    """

    tokens: Number
    layers: tuple[int, ...]
    shared: Score
    by_chance: Score
    shared_by_layer: tuple[Score, ...]


class RegressionResult(Record):
    """The whole content of `regression.json`.

    Attributes:
        outcome: the primary outcome of the plan, of which all gains are.
        margin: the difference of gains below which it does not matter, in the outcome's unit.
        arms: every arm that is no control, on every target.
        routing: None where it is not known; `notes` says why.
        notes: what else differs between the runs, and what is not known.
    """

    schema_version: Literal[1]
    old: Side
    new: Side
    plan: Name
    suite: Name
    outcome: Literal["score", "gold_logprob"]
    significance_level: float
    margin: float
    arms: Annotated[tuple[ArmRegression, ...], Field(min_length=1)]
    routing: RoutingAgreement | None
    notes: tuple[str, ...]
