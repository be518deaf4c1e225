"""The content of the studies' result files: `existence.json`, `similarity.json`, `trial.json`."""

from __future__ import annotations

from typing import TypedDict

Interval = tuple[float, float]
"""The ends of a 95 % interval."""


class SpecificExpertRow(TypedDict):
    """An expert that is specific to a domain; see `existence.SpecificExpert`."""

    layer: int
    expert: int
    rate: float
    rest_rate: float
    difference: float
    difference_ci95: Interval
    lift: float
    lift_ci95: Interval
    p_value: float
    p_adjusted: float
    exceeds_random: bool


class DomainExistenceRow(TypedDict):
    """The result for one domain; see `existence.DomainExistence`."""

    domain: str
    documents: int
    tokens: int
    specific: list[SpecificExpertRow]
    exceeding: int
    by_layer: list[int]
    exceeding_by_layer: list[int]
    random_specific: list[int]
    random_by_layer: list[float]
    random_largest: float
    stability: float | None
    stability_by_chance: float | None


class ExistenceResult(TypedDict):
    """The content of `existence.json`; see `existence.Existence`, and `ComparedRouting.about`."""

    model: str
    fingerprint: str
    dtype: str
    device: str
    suite: str
    limit: int | None
    layers: list[int]
    experts: int
    level: float
    permutations: int
    resamples: int
    stability_pairs: int
    hypotheses: int
    fewest_discoveries: int
    random_seeds: list[int]
    domains: list[DomainExistenceRow]


class CkaRow(TypedDict):
    """The similarity of one layer's experts; `pair` is the two most similar experts."""

    mean: float
    alike: float
    largest: float
    pair: tuple[int, int]
    effective_rank: float


class KernelRow(TypedDict):
    """One layer by one kernel: its experts, and the sets they are compared with."""

    experts: CkaRow
    random: CkaRow
    shuffled: CkaRow


class LayerRow(TypedDict):
    """One layer; `used` is each expert's share of the tokens."""

    layer: int
    check: float
    used: list[float]
    linear: KernelRow
    rbf: KernelRow


class ContrastRow(TypedDict):
    """The pairs of a profile's experts beside an equal number of random pairs."""

    pairs: int
    mean: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float


class ProfileKernelRow(TypedDict):
    """A profile's experts by one kernel: among themselves, with others, and the others."""

    within: ContrastRow | None
    across: ContrastRow | None
    others: float | None


class ProfileRow(TypedDict):
    """The profile whose experts were compared with the others."""

    id: str
    method: str
    domain: str
    experts: int
    draws: int
    linear: ProfileKernelRow
    rbf: ProfileKernelRow


class ModelRow(TypedDict):
    """The model that was read."""

    name: str
    fingerprint: str


class SimilarityResult(TypedDict):
    """The content of `similarity.json`."""

    model: ModelRow
    dtype: str
    device: str
    source: str
    tokens: int
    texts: int
    seed: int
    experts: int
    layers: list[LayerRow]
    profile: ProfileRow | None


class AgreementRow(TypedDict):
    """A rank correlation."""

    value: float
    ci95: Interval


class GainRow(TypedDict):
    """A pooled change of the targets' scores; see `trial.PooledGain`."""

    delta: float
    ci95: Interval
    questions: int
    items: int


class MethodRow(TypedDict):
    """One method of identification: agreement, gains, and non-inferiority of the non-targets."""

    method: str
    agreement_specific: AgreementRow
    agreement_plain: AgreementRow
    gain: GainRow
    gain_over_placebo: GainRow
    placebo_gain: GainRow
    non_target_delta: float
    non_inferior: bool


class TrialModelRow(TypedDict):
    """The part of a run's identity that the trial's page names."""

    model: str


class TrialResult(TypedDict):
    """The content of `trial.json`."""

    plan: str
    model: TrialModelRow
    domains: list[str]
    items: int
    experts: int
    resamples: int
    chance: float
    methods: list[MethodRow]
