"""The content of the result files that hold several existence tests."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from .results import Basis, Control, ControlSummary, ExistenceResult, Interval


class MapAgreementRow(TypedDict):
    """How far a domain's experts by influence are those by counts.

    Attributes:
        domain: the domain.
        spearman: the rank correlation of t by counts and t by influence over all experts.
        spearman_ci95: its interval, from resampled documents.
        by_counts: number of specific experts by counts.
        by_influence: the same by influence.
        both: how many are specific by both.
        both_by_chance: the mean of that, were the two sets drawn blindly.
        p_value: the probability that blind sets of these sizes share as many (hypergeometric).
    """

    domain: str
    spearman: float
    spearman_ci95: Interval
    by_counts: int
    by_influence: int
    both: int
    both_by_chance: float
    p_value: float


class BothExistence(TypedDict):
    """The content of `existence.json` with `--by both`.

    Attributes:
        by: that it is both.
        counts: the result by counts.
        influence: the result by influence, on the same documents.
        agreement: one row per domain.
    """

    by: Literal["both"]
    counts: ExistenceResult
    influence: ExistenceResult
    agreement: list[MapAgreementRow]


class MapSummaryRow(TypedDict):
    """The result of the test on one checkpoint, by one basis.

    Attributes:
        specific: number of specific experts, over all domains.
        by_domain: the same by domain.
        beyond: by kind of control: how many have a larger t than any of the control's experts.
        controls: the checkpoint beside each kind of control.
    """

    specific: int
    by_domain: dict[str, int]
    beyond: dict[Control, int]
    controls: dict[Control, ControlSummary]


class CheckpointRow(TypedDict):
    """One checkpoint of a model.

    Attributes:
        model: its folder, or its name and revision on the hub.
        fingerprint: its fingerprint.
        label: a short name of it, different from that of all others.
        tests: the result by each basis.
        agreement: as in `BothExistence`; empty with one basis.
    """

    model: str
    fingerprint: str
    label: str
    tests: dict[Basis, MapSummaryRow]
    agreement: list[MapAgreementRow]


class EmergenceResult(TypedDict):
    """The content of `emergence.json`: the existence test along a model's training.

    Attributes:
        source: the suite or file of the text.
        bases: the bases of the test.
        form: the form of influence; None if it was not computed.
        layers: the model's MoE layers.
        experts: number of routed experts per layer.
        units: as in `ExistenceResult`.
        hypotheses: number of (layer, expert, domain) tested.
        level: the false discovery rate.
        permutations: number of shuffles of the documents' labels.
        control_models: number of control models of each kind.
        limit: the limit of texts per task, if there was one.
        checkpoints: one row per checkpoint, in the order that was given.
    """

    source: str
    bases: list[Basis]
    form: str | None
    layers: list[int]
    experts: int
    units: NotRequired[str]
    hypotheses: int
    level: float
    permutations: int
    control_models: int
    limit: int | None
    checkpoints: list[CheckpointRow]
