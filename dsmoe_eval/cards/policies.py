"""Policies: the rules that a run must meet to pass, fixed before its results are read."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from .base import Card, Name

Tier = Literal["critical", "supporting", "advisory"]
ClaimMetric = Literal[
    "target_claim",
    "still_improves",
    "non_target_claim",
    "domain_claims",
    "placebo_claim",
    "specificity_claim",
    "gold_logprob.target_claim",
    "gold_logprob.non_target_claim",
    "gold_logprob.placebo_claim",
    "bits_per_byte.target_claim",
    "bits_per_byte.non_target_claim",
    "bits_per_byte.placebo_claim",
]
IntervalMetric = Literal[
    "target_gain",
    "gain_difference",
    "non_target_change",
    "worst_domain_change",
    "retention",
    "gain_over_placebo",
    "gain_over_prompt",
    "gain_over_quantized",
    "placebo_gain",
    "specificity",
    "predicted_gain",
    "gold_logprob.target_gain",
    "gold_logprob.non_target_change",
    "gold_logprob.gain_over_placebo",
    "bits_per_byte.target_gain",
    "bits_per_byte.non_target_change",
    "bits_per_byte.gain_over_placebo",
]
PointMetric = Literal[
    "target_mde80",
    "flipped_target",
    "flipped_non_target",
    "tokens_ratio",
    "invalid_rate",
    "truncated_rate",
    "leaked_items",
]
CheckMetric = Literal["probes_passed", "gain_not_lost", "sham_equals_base", "whole_run"]
Metric = Literal[ClaimMetric, IntervalMetric, PointMetric, CheckMetric]
Shown = Literal["improves", "harms", "equivalent"]

CLAIM_METRICS, INTERVAL_METRICS = get_args(ClaimMetric), get_args(IntervalMetric)
POINT_METRICS, CHECK_METRICS = get_args(PointMetric), get_args(CheckMetric)
RUN_METRICS = ("leaked_items", "sham_equals_base", "whole_run")
"""The metrics of the whole run; all others are metrics of an arm."""
ONLY_SINCE_BASELINE = ("gain_difference", "gain_not_lost", "still_improves")
"""The metrics that there are only with a baseline run, of arms that improved their target in it."""
BASELINE_METRICS = ("target_gain", "non_target_change", *ONLY_SINCE_BASELINE)
"""The metrics that can be compared with a baseline run."""

_Number = Annotated[float, Field(allow_inf_nan=False)]


class Rule(Card):
    """One metric and the values that it may have: fractions, or in the unit of its outcome.

    A rule on a claim (`*_claim`) is met if the claim is one of `one_of`, and undecided if the claim
    is inconclusive. A rule on a figure with an interval is met if the whole interval is within the
    bounds, not met if the whole interval is beyond one bound, and undecided otherwise. A figure
    without an interval is either within its bounds or not; only `target_mde80` above its bound is
    undecided, since the evidence is too small. All other metrics are checks: true or false, without
    a bound.

    Attributes:
        name: the rule's name in reports.
        tier: `critical`: a rule that is not met fails the run, an undecided one makes it
            inconclusive. `supporting`: both make it inconclusive. `advisory`: the rule is only
            shown. A missing figure fails a critical rule, and counts as not enough evidence in
            a supporting one.
        metric: the metric.
        one_of: the allowed claims, for claims only. Inconclusive never passes.
        at_least: lower bound.
        at_most: upper bound.
        against: `baseline`: the figure is its change since the baseline run, which is given on the
            command line; without a baseline the rule is skipped, unless the policy requires one.
        variants: the arms that the rule applies to; None: those of the policy.
        targets: the targets that the rule applies to; None: those of the policy.
    """

    name: str = Field(min_length=1, max_length=200)
    tier: Tier
    metric: Metric
    one_of: tuple[Shown, ...] | None = None
    at_least: _Number | None = None
    at_most: _Number | None = None
    against: Literal["bound", "baseline"] = "bound"
    variants: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    targets: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Rule:
        bounded = self.at_least is not None or self.at_most is not None
        if (self.metric in CLAIM_METRICS) != bool(self.one_of):
            raise ValueError(
                f"rule {self.name!r}: claims need one_of, and other metrics do not allow it"
            )
        if bounded != (self.metric in INTERVAL_METRICS + POINT_METRICS):
            raise ValueError(
                f"rule {self.name!r}: figures need at_least or at_most, other metrics allow neither"
            )
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"rule {self.name!r}: at_least is above at_most")
        if self.against == "baseline" and self.metric not in BASELINE_METRICS:
            raise ValueError(
                f"rule {self.name!r}: only {', '.join(BASELINE_METRICS)} can be compared with a "
                "baseline"
            )
        if self.against == "bound" and self.metric in ONLY_SINCE_BASELINE:
            raise ValueError(
                f"rule {self.name!r}: {self.metric} needs a baseline; write against: baseline"
            )
        if self.metric in RUN_METRICS and (self.variants or self.targets):
            raise ValueError(
                f"rule {self.name!r}: {self.metric} is a metric of the whole run; "
                "leave out variants and targets"
            )
        return self


class Policy(Card):
    """The rules that a run must meet to pass.

    Attributes:
        variants: the arms that the rules apply to; None: every steered variant that is no control.
        targets: the targets that the rules apply to; None: every target of the run.
        baseline: `required`: without a baseline run there is an error instead of a verdict.
    """

    name: Name
    description: str
    variants: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    targets: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    baseline: Literal["optional", "required"] = "optional"
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Policy:
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError("two rules have the same name")
        if not any(rule.tier == "critical" and rule.against == "bound" for rule in self.rules):
            raise ValueError("no rule is critical, so every run would pass; make one critical")
        return self
