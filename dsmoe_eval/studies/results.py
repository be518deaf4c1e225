"""The content of the studies' result files, such as `existence.json`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from ..experts.set_similarity import SetSimilarity
from ..experts.similarity import Summary

Interval = tuple[float, float]
"""The ends of a 95 % interval."""
Control = Literal["random", "shuffled"]
"""A kind of control model: random weights, or the model with shuffled routers."""
Basis = Literal["counts", "influence"]
"""What an expert is specific by: how often it is used, or what raising it does to the text."""


class SpecificExpertRow(TypedDict):
    """An expert that a domain's tokens use more than chance explains.

    By influence, a rate is the mean change of a token's log-likelihood in nats by raising the
    expert by half a sigma, less the mean over the layer's experts.

    Attributes:
        layer: the model's index of the layer.
        expert: index in the layer.
        rate: share of the domain's tokens that use it.
        rest_rate: share of all other domains' tokens that use it.
        difference: `rate - rest_rate`.
        difference_ci95: its interval, from resampled documents; not allowing for selection.
        statistic: `difference` over its standard error (t); None if no document differs from the
            others of its side, so that there is no error.
        lift: `rate / rest_rate`, no use by the rest taken as half a use; None by influence.
        lift_ci95: its interval; likewise.
        p_value: the p-value of the permutation test.
        p_adjusted: after Benjamini and Hochberg, over the whole model.
        beyond: whether `statistic` is larger than the domain's `largest_statistic` of each control.
    """

    layer: int
    expert: int
    rate: float
    rest_rate: float
    difference: float
    difference_ci95: Interval
    statistic: float | None
    lift: float | None
    lift_ci95: Interval | None
    p_value: float
    p_adjusted: float
    beyond: dict[Control, bool]


class ControlRow(TypedDict):
    """One domain in the control models of one kind.

    Attributes:
        specific: [models] specific experts of each control model.
        by_layer: [layers] the same by layer, mean over the control models.
        largest: the largest rate difference of any expert of any control model.
        largest_statistic: the largest t of any; None if there is no error, see `statistic`.
        beyond: how many of the model's specific experts have a larger t.
        beyond_by_layer: [layers] the same by layer.
    """

    specific: list[int]
    by_layer: list[float]
    largest: float
    largest_statistic: float | None
    beyond: int
    beyond_by_layer: list[int]


class ControlSummary(TypedDict):
    """The model beside the control models of one kind, over all domains.

    Attributes:
        discoveries: [models] specific experts, over all domains.
        p_by_number: share of the control models and the model with at least as many as the model.
        domains_beyond: number of domains with an expert beyond the control.
        p_by_strength: the largest probability of as many such domains, if the model were one more
            control model: domains / (domains_beyond * (models + 1)), at most 1.
    """

    discoveries: list[int]
    p_by_number: float
    domains_beyond: int
    p_by_strength: float


class DomainExistenceRow(TypedDict):
    """The result for one domain.

    Attributes:
        domain: its name.
        documents: how many were read.
        tokens: how many tokens these documents have.
        specific: its specific experts, the largest difference first; of neurons, as many of them
            as `existence.MOST_LISTED` says.
        by_layer: [layers] specific experts.
        largest_statistic: the largest t of any expert; None if there is no error.
        controls: the same domain in the control models.
        stability: mean Jaccard index of as many top experts as are specific, by difference, between
            pairs of document resamples; None if nothing is specific.
        stability_by_chance: the index of two sets of as many experts drawn blindly.
    """

    domain: str
    documents: int
    tokens: int
    specific: list[SpecificExpertRow]
    by_layer: list[int]
    largest_statistic: float | None
    controls: dict[Control, ControlRow]
    stability: float | None
    stability_by_chance: float | None


class Existence(TypedDict):
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
        control_models: number of control models of each kind; their seeds count from 0.
        controls: the model beside each kind of control.
        domains: one result per domain.
        by: what experts are specific by, if not by counts.
        form: by influence: `exact`, in which the router selects again, or `gradient`.
    """

    layers: list[int]
    experts: int
    level: float
    permutations: int
    resamples: int
    stability_pairs: int
    hypotheses: int
    fewest_discoveries: int
    control_models: int
    controls: dict[Control, ControlSummary]
    domains: list[DomainExistenceRow]
    by: NotRequired[Basis]
    form: NotRequired[str]


class ExistenceResult(Existence):
    """The content of `existence.json`; see `ComparedRouting.about`.

    `units` says what the "experts" are, if they are neurons.
    """

    model: str
    fingerprint: str
    dtype: str
    device: str
    suite: str | None
    file: str | None
    chunks: NotRequired[int]
    limit: int | None
    units: NotRequired[str]


class KernelRow(TypedDict):
    """One layer by one kernel: its experts, and the sets they are compared with."""

    experts: Summary
    random: Summary
    shuffled: Summary


class LayerRow(TypedDict):
    """One layer; `used` is each expert's share of the tokens."""

    layer: int
    check: float
    used: list[float]
    linear: KernelRow
    rbf: KernelRow


class ProfileRow(TypedDict):
    """The profile whose experts were compared with the others."""

    id: str
    method: str
    domain: str
    experts: int
    draws: int
    linear: SetSimilarity
    rbf: SetSimilarity


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
    """One method of identification: agreement, gains, and non-inferiority of the non-targets.

    The agreement is that with the loss by masking each expert; `raised_*` that with the gain by
    raising it, which trials before version 1.1 did not measure.
    """

    method: str
    agreement_specific: AgreementRow
    agreement_plain: AgreementRow
    raised_agreement_specific: NotRequired[AgreementRow]
    raised_agreement_plain: NotRequired[AgreementRow]
    gain: GainRow
    gain_over_placebo: GainRow
    placebo_gain: GainRow
    non_target_delta: float
    non_inferior: bool


class TrialModelRow(TypedDict):
    """The part of a run's identity that the trial's page names."""

    model: str
    limit: NotRequired[int | None]


class GroupRow(TypedDict):
    """The specific effects of a method's groups for a domain, the group that scores best first."""

    domain: str
    specific: list[float]
    raised_specific: list[float]


class TrialGroups(TypedDict):
    """The groups into which each method's ranking of neurons is cut for each domain.

    Attributes:
        number: the number of groups, at even distances in the ranking.
        size: the number of neurons of each.
        methods: method -> one row per domain.
    """

    number: int
    size: int
    methods: dict[str, list[GroupRow]]


class TrialResult(TypedDict):
    """The content of `trial.json`.

    `units` says what the "experts" are, if they are neurons; with `groups` these were masked and
    raised. `unscored` are domains without identification text, on which nothing was measured.
    Trials before version 1.2 do not name their interventions.
    """

    plan: str
    model: TrialModelRow
    domains: list[str]
    items: int
    experts: int
    resamples: int
    chance: float
    methods: list[MethodRow]
    interventions: NotRequired[list[str]]
    unscored: NotRequired[list[str]]
    units: NotRequired[str]
    groups: NotRequired[TrialGroups]
