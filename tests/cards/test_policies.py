"""A policy that says nothing, or two things at once, is refused."""

import pytest
import yaml
from pydantic import ValidationError

from dsmoe_eval.cards.policies import (
    CHECK_METRICS,
    CLAIM_METRICS,
    INTERVAL_METRICS,
    ONLY_SINCE_BASELINE,
    POINT_METRICS,
    Policy,
    Rule,
)
from dsmoe_eval.errors import UserError
from dsmoe_eval.gates.baseline import KEPT
from dsmoe_eval.gates.figures import _OF_ARM, _OF_RUN
from dsmoe_eval.registry import builtin_names, load_policy

RULE = {"name": "r", "tier": "critical", "metric": "target_gain", "at_least": 0.0}


def test_every_metric_can_be_read():
    metrics = {*CLAIM_METRICS, *INTERVAL_METRICS, *POINT_METRICS, *CHECK_METRICS}
    assert metrics == {*_OF_ARM, *_OF_RUN, *ONLY_SINCE_BASELINE}
    assert set(ONLY_SINCE_BASELINE) == set(KEPT)


@pytest.mark.parametrize("name", builtin_names("policies"))
def test_what_ships_weighs_gain_cost_and_validity(name):
    policy = load_policy(name)
    critical = {rule.metric for rule in policy.rules if rule.tier == "critical"}
    gain = {"target_claim", "placebo_claim", "sham_equals_base"}
    if policy.baseline == "required":  # whether the gain is one was decided for the baseline
        gain = {"still_improves", "gain_not_lost"}
    validity = {"probes_passed", "leaked_items", "whole_run"}
    assert critical >= gain | validity | {"non_target_change"}


def test_strict_asks_for_no_less_than_default():
    weight = {"critical": 2, "supporting": 1, "advisory": 0}
    rules = {name: load_policy(name).rules for name in ("default", "strict")}
    for rule in rules["default"]:
        (same,) = [
            one for one in rules["strict"]
            if one.metric == rule.metric and one.against == rule.against
        ]  # fmt: skip
        assert weight[same.tier] >= weight[rule.tier]
        assert (same.at_least is None) or rule.at_least is None or same.at_least >= rule.at_least
        assert (same.at_most is None) or rule.at_most is None or same.at_most <= rule.at_most


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": 1}, "Extra inputs"),
        ({"tier": "vital"}, "critical"),
        ({"metric": "beauty"}, "metric"),
        ({"at_least": None}, "figures need at_least or at_most"),
        ({"at_least": float("nan")}, "finite"),
        ({"at_least": float("-inf")}, "finite"),
        ({"at_least": 1, "at_most": 0}, "above at_most"),
        ({"one_of": ["improves"]}, "claims need one_of"),
        ({"metric": "target_claim", "at_least": None}, "claims need one_of"),
        ({"metric": "target_claim", "at_least": None, "one_of": []}, "claims need one_of"),
        ({"metric": "target_claim", "one_of": ["improves"]}, "figures need at_least or at_most"),
        ({"metric": "target_claim", "at_least": None, "one_of": ["inconclusive"]}, "'improves'"),
        ({"metric": "probes_passed"}, "figures need at_least or at_most"),
        ({"metric": "retention", "against": "baseline"}, "compared with a baseline"),
        ({"metric": "gain_difference"}, "gain_difference needs a baseline; write against"),
        ({"metric": "leaked_items", "variants": ["contrast"]}, "a metric of the whole run"),
        ({"variants": []}, "at least 1"),
    ],
)
def test_a_rule_that_cannot_be_meant(change, words):
    with pytest.raises(ValidationError, match=words):
        Rule.model_validate(RULE | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rules": []}, "at least 1"),
        ({"rules": [RULE, RULE | {}]}, "two rules have the same name"),
        ({"rules": [RULE | {"tier": "supporting"}]}, "no rule is critical"),
        ({"rules": [RULE | {"against": "baseline"}]}, "no rule is critical"),
        ({"baseline": "perhaps"}, "optional"),
        ({"rule": []}, "Extra inputs"),
    ],
)
def test_a_policy_that_cannot_be_meant(change, words, tmp_path):
    whole = {"name": "p", "description": "d", "rules": [RULE]}
    assert Policy.model_validate(whole)
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(whole | change))
    with pytest.raises(UserError, match=words) as error:
        load_policy(str(path))
    assert str(path) in str(error.value)
