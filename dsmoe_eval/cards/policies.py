"""Policies: what a run must show to pass, rule by rule, fixed before it is looked at."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from .base import Card, Name

Tier = Literal["critical", "supporting", "advisory"]
ClaimMetric = Literal[
    "target_claim", "non_target_claim", "domain_claims", "placebo_claim", "specificity_claim"
]
IntervalMetric = Literal[
    "target_gain",
    "non_target_change",
    "worst_domain_change",
    "retention",
    "gain_over_placebo",
    "placebo_gain",
    "specificity",
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
CheckMetric = Literal["probes_passed", "sham_equals_base", "whole_run"]
Metric = Literal[ClaimMetric, IntervalMetric, PointMetric, CheckMetric]
Shown = Literal["improves", "harms", "equivalent"]

CLAIM_METRICS, INTERVAL_METRICS = get_args(ClaimMetric), get_args(IntervalMetric)
POINT_METRICS, CHECK_METRICS = get_args(PointMetric), get_args(CheckMetric)
RUN_METRICS = ("leaked_items", "sham_equals_base", "whole_run")
"""Of the whole run; all others are of an arm."""
BASELINE_METRICS = ("target_gain", "non_target_change")
"""What can be held against a baseline."""

_Number = Annotated[float, Field(allow_inf_nan=False)]


class Rule(Card):
    """One figure and what it must be. Fractions, never percents.

    A claim (`*_claim`) is met if it is one of `one_of`, not decided if it is inconclusive. A figure
    with an interval is met if the whole interval lies within the bounds, not met if all of it lies
    beyond one, and else not decided. A figure without an interval is within its bounds or not;
    `target_mde80` above its bound is too little evidence: not decided. The rest are checks: true or
    not, without a bound.

    Attributes:
        name: what reports call it.
        tier: `critical`: not met fails the run, not decided leaves it inconclusive. `supporting`:
            either leaves it inconclusive. `advisory`: is shown. A figure that is missing fails the
            run in both of the first.
        metric: the figure.
        one_of: for claims: what may be claimed. Inconclusive never passes.
        at_least: lower bound.
        at_most: upper bound.
        against: `baseline`: the figure is its change since the baseline run, which is passed on the
            command line; without one the rule is not applied, unless the policy requires it.
        variants: the arms it is about; None: those of the policy.
        targets: likewise.
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
            raise ValueError(f"rule {self.name!r}: one_of goes with claims, and claims with one_of")
        if bounded != (self.metric in INTERVAL_METRICS + POINT_METRICS):
            raise ValueError(
                f"rule {self.name!r}: give at_least or at_most to a figure, and to nothing else"
            )
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"rule {self.name!r}: at_least is above at_most")
        if self.against == "baseline" and self.metric not in BASELINE_METRICS:
            raise ValueError(
                f"rule {self.name!r}: against a baseline stand only {', '.join(BASELINE_METRICS)}"
            )
        if self.metric in RUN_METRICS and (self.variants or self.targets):
            raise ValueError(f"rule {self.name!r}: {self.metric} is of the run, not of an arm")
        return self


class Policy(Card):
    """What a run must show to pass.

    Attributes:
        variants: the arms that the rules are about; None: every steered variant that is no control.
        targets: likewise; None: every target of the run.
        baseline: `required` refuses to decide without a baseline run.
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
            raise ValueError("two rules have one name")
        if not any(rule.tier == "critical" and rule.against == "bound" for rule in self.rules):
            raise ValueError("no rule is critical, so everything would pass")
        return self
