"""Each rule met, unmet, undecided and missing; and nothing that is lost makes a pass."""

import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe_eval.cards import Policy
from dsmoe_eval.errors import UserError
from dsmoe_eval.gates import Baseline, decide
from dsmoe_eval.gates.readings import Measurement
from dsmoe_eval.registry import load_policy
from dsmoe_eval.results.finished import as_finished

RANK = {"pass": 2, "inconclusive": 1, "fail": 0}


def policy(*rules, **keys):
    whole = [{"name": str(place), "tier": "critical"} | rule for place, rule in enumerate(rules)]
    return Policy.model_validate({"name": "p", "description": "d", "rules": whole} | keys)


def rule(metric, **keys):
    return {"metric": metric} | keys


def outcome(data, wanted, baseline=None):
    """As the command ends; what cannot be decided is no pass either."""
    try:
        return decide(as_finished(data, "r"), wanted, baseline).outcome
    except UserError:
        return "fail"


def state(data, wanted_rule):
    found = decide(as_finished(data, "r"), policy(wanted_rule)).rulings
    return next(one.state for one in found if one.subject in ("contrast on math", "the run"))


def put(row, changes):
    """Change values by their paths."""
    for path, value in changes.items():
        inner, *steps, last = row, *(int(p) if p.isdigit() else p for p in path.split("."))
        for step in steps:
            inner = inner[step]
        spoil(inner, (last,), value if value is DELETE else copy.deepcopy(value))


DELETE = object()


def claimed(where, delta, p_value, reach=0.1):
    ends = [delta - reach, delta + reach]
    return {
        f"{where}.score_b": 0.5 + delta, f"{where}.ci95": ends, f"{where}.p_adjusted": p_value
    }  # fmt: skip


def harms(where):
    return claimed(where, -0.2, 0.05)


def unsure(where):
    return claimed(where, 0.0, 0.051)


def silent(where):
    return {f"{where}.p_adjusted": None}


POOL_FALLS = {
    "domains.0.score_b": 0.3, "domains.1.score_b": 0.3, "non_targets.ci95": [-0.3, -0.1],
    "non_targets.p_adjusted": 0.05,
}  # fmt: skip
POOL_UNSURE = {"non_targets.ci95": [-0.1, 0.1], "non_targets.p_adjusted": 0.051}
BASE_SCORES_NOTHING = {
    f"domains.{n}.{name}": 0.0 for n in (0, 1) for name in ("score_a", "score_b")
}
ANSWERS = "target_result.answers"
MOST_BELOW = {"at_most": 0.1}
# metric, bounds; changes that leave it unmet, undecided, missing: paths in the arm and values.
TABLE = [
    ("target_claim", {"one_of": ["improves"]}, {
        "unmet": harms("target_result"),
        "undecided": unsure("target_result"),
        "missing": silent("target_result"),
    }),
    ("non_target_claim", {"one_of": ["improves", "equivalent"]}, {
        "unmet": POOL_FALLS,
        "undecided": POOL_UNSURE,
        "missing": silent("non_targets"),
    }),
    ("domain_claims", {"one_of": ["improves", "equivalent"]}, {
        "unmet": harms("domains.1"),
        "undecided": unsure("domains.0"),
        "missing": silent("domains.1"),
    }),
    ("placebo_claim", {"one_of": ["improves"]}, {
        "unmet": claimed("over_placebo", 0.0, 1.0, reach=0.01),
        "undecided": unsure("over_placebo"),
        "missing": {"over_placebo": None},
    }),
    ("specificity_claim", {"one_of": ["improves"]}, {
        "unmet": harms("specificity"),
        "undecided": unsure("specificity"),
        "missing": {"specificity": None},
    }),
    ("target_gain", {"at_least": 0.1}, {
        "unmet": {"target_result.ci95": [0.0, 0.09]},
        "undecided": {"target_result.ci95": [0.1, 0.2]},
    }),
    ("non_target_change", {"at_least": -0.02}, {
        "unmet": {"non_targets.ci95": [-0.1, -0.03]},
        "undecided": {"non_targets.non_inferiority.lower_bound": -0.02},
    }),
    ("retention", {"at_least": 0.95}, {
        "unmet": {"non_targets.ci95": [-0.1, -0.05]},
        "undecided": {"non_targets.ci95": [-0.1, 0.0]},
        "missing": BASE_SCORES_NOTHING,
    }),
    ("worst_domain_change", {"at_least": -0.05}, {
        "undecided": {"domains.1.non_inferiority.lower_bound": -0.06},
        "missing": silent("domains.0"),
    }),
    ("gain_over_placebo", {"at_least": 0.1}, {
        "unmet": {"over_placebo.ci95": [-0.1, 0.05]},
        "undecided": {"over_placebo.ci95": [-0.1, 0.3]},
        "missing": {"over_placebo": None},
    }),
    ("specificity", {"at_least": 0.1}, {
        "unmet": {"specificity.ci95": [-0.1, 0.05]},
        "undecided": {"specificity.ci95": [-0.1, 0.3]},
        "missing": {"specificity": None},
    }),
    ("gain_over_quantized", {"at_least": 0.1}, {
        "unmet": {"over_quantized.ci95": [-0.1, 0.05]},
        "undecided": {"over_quantized.ci95": [0.1, 0.3]},
        "missing": {"over_quantized": None},
    }),
    ("target_mde80", {"at_most": 0.05}, {"undecided": {"target_result.mde80": None}}),
    ("flipped_target", MOST_BELOW, {"unmet": {"target_result.gained": 31}}),
    ("flipped_non_target", MOST_BELOW, {"unmet": {"domains.0.gained": 71}}),
    ("tokens_ratio", {"at_most": 1.1}, {
        "unmet": {f"{ANSWERS}.b.mean_tokens": 12.0},
        "missing": {f"{ANSWERS}.a.mean_tokens": 0.0},
    }),
    ("invalid_rate", MOST_BELOW, {"unmet": {f"{ANSWERS}.b.invalid": 0.2}}),
    ("truncated_rate", MOST_BELOW, {"unmet": {f"{ANSWERS}.b.truncated": 0.2}}),
    ("probes_passed", {}, {
        "unmet": {"probe.null_max_difference": 1e-9},
        "missing": {"probe": None},
    }),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "bounds", "changes"), TABLE, ids=[row[0] for row in TABLE])
def test_a_rule_of_an_arm(data, contrast, metric, bounds, changes):
    wanted = rule(metric, **bounds)
    assert state(data, wanted) == "met"
    assert outcome(data, policy(wanted, targets=["math"])) == "pass"
    before = copy.deepcopy(contrast)
    for expected, values in changes.items():
        put(contrast, values)
        assert state(data, wanted) == expected
        told = {"unmet": "fail", "missing": "fail", "undecided": "inconclusive"}[expected]
        assert outcome(data, policy(wanted)) == told
        contrast.clear()
        contrast.update(copy.deepcopy(before))


RUN_TABLE = [
    ("leaked_items", {"at_most": 0}, {"leakage.pairs": 1}),
    ("whole_run", {}, {"run.limit": 8}),
    ("sham_equals_base", {}, {"arms.0.target_result.gained": 1}),
    ("sham_equals_base", {}, {"arms.0.domains.1.lost": 1}),
]


@pytest.mark.parametrize(("metric", "bounds", "changes"), RUN_TABLE)
def test_a_rule_of_the_run(data, metric, bounds, changes):
    wanted = rule(metric, **bounds)
    assert state(data, wanted) == "met"
    put(data, changes)
    assert state(data, wanted) == "unmet"
    assert outcome(data, policy(wanted)) == "fail"


def test_a_plan_without_sham_or_placebo_does_not_pass(data):
    for gone, metric, bounds in (
        ("sham", "sham_equals_base", {}),
        ("random", "placebo_gain", {"at_most": 0.1}),
    ):
        assert state(data, rule(metric, **bounds)) == "met"
        data["variants"].remove(gone)
        data["arms"] = [a for a in data["arms"] if a["variant"] != gone]
        assert state(data, rule(metric, **bounds)) == "missing"


def test_a_placebo_that_gains_is_not_flat(data):
    wanted = rule("placebo_gain", at_least=-0.05, at_most=0.05)
    placebo = next(a for a in data["arms"] if (a["variant"], a["target"]) == ("random", "math"))
    for ends in ([0.06, 0.2], [-0.2, -0.06]):
        placebo["target_result"]["ci95"] = ends
        assert state(data, wanted) == "unmet"
    placebo["target_result"]["ci95"] = [0.0, 0.2]
    assert state(data, wanted) == "undecided"


def test_the_worst_domain_fell_only_where_holm_says_so(data, contrast):
    wanted = rule("worst_domain_change", at_least=-0.05)
    row = contrast["domains"][1]
    row |= {"score_b": 0.4, "ci95": [-0.14, -0.06]}
    row["non_inferiority"]["lower_bound"] = -0.14
    assert state(data, wanted) == "undecided"
    row["p_adjusted"] = 0.05
    assert state(data, wanted) == "unmet"


@pytest.mark.parametrize(
    ("tier", "unmet", "undecided", "missing"),
    [
        ("critical", "fail", "inconclusive", "fail"),
        ("supporting", "inconclusive", "inconclusive", "inconclusive"),
        ("advisory", "pass", "pass", "pass"),
    ],
)
def test_case_23_what_a_tier_weighs(data, contrast, tier, unmet, undecided, missing):
    wanted = policy(rule("whole_run"), rule("gain_over_placebo", at_least=0.1, tier=tier))
    for ends, told in (([0.0, 0.05], unmet), ([0.0, 0.2], undecided)):
        contrast["over_placebo"]["ci95"] = ends
        assert outcome(data, wanted) == told
    contrast["over_placebo"] = None
    assert outcome(data, wanted) == missing


def test_case_23_a_plan_without_placebo_fails_only_by_critical_rules(data):
    """`placebo is flat` is supporting: what lacks a placebo is undecided, not refuted."""
    data["variants"].remove("random")
    data["arms"] = [a for a in data["arms"] if a["variant"] != "random"]
    found = decide(as_finished(data, "r"), load_policy("default"))
    assert {(one.rule, one.state) for one in found.rulings if one.state != "met"} == {
        ("placebo is flat", "missing")
    }
    assert (found.outcome, found.exit_code) == ("inconclusive", 2)
    assert decide(as_finished(data, "r"), load_policy("strict")).exit_code == 1


def test_a_bound_of_a_figure_without_interval_is_within(data, contrast):
    contrast["target_result"]["answers"]["b"]["invalid"] = 0.1
    assert state(data, rule("invalid_rate", at_most=0.1)) == "met"


def test_no_arm_is_no_pass(data):
    for keys in ({"variants": ["dsmoe"]}, {"targets": ["chemistry"]}):
        found = decide(as_finished(data, "r"), policy(rule("tokens_ratio", at_most=2), **keys))
        assert found.outcome == "fail"
        assert all("has no arm" in one.reason for one in found.rulings)
    data["variants"] = ["sham"]
    data["arms"] = [a for a in data["arms"] if a["variant"] == "sham"]
    found = decide(as_finished(data, "r"), policy(rule("tokens_ratio", at_most=2)))
    assert [one.subject for one in found.rulings] == ["no arm"]
    assert found.exit_code == 1


def test_arms_are_selected_by_policy_and_rule(data):
    wanted = policy(
        rule("tokens_ratio", at_most=2, variants=["random"], targets=["law"]),
        rule("tokens_ratio", at_most=2),
        variants=["contrast"],
    )
    found = decide(as_finished(data, "r"), wanted).rulings
    assert [one.subject for one in found] == [
        "random on law",
        "contrast on math",
        "contrast on law",
    ]


SINCE = rule("target_gain", against="baseline", at_least=-0.05)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Measurement(0.0, -0.04, 0.04), "pass"),
        (Measurement(0.0, 0.0, 0.0), "pass"),
        (Measurement(-0.1, -0.2, 0.0), "inconclusive"),
        (Measurement(-0.1, -0.12, -0.06), "fail"),
        ("it is not there", "fail"),
    ],
)
def test_against_a_baseline(data, change, told):
    wanted = policy(rule("whole_run"), SINCE, targets=["math"])
    key = ("target_gain", ("contrast", "math"))
    assert outcome(data, wanted, Baseline("b", {key: change})) == told
    assert outcome(data, wanted, Baseline("b", {})) == "fail"


def test_a_rule_that_waits_for_a_baseline_is_named_and_may_be_required(data):
    wanted = policy(rule("whole_run"), SINCE)
    found = decide(as_finished(data, "r"), wanted)
    assert (found.outcome, found.not_applied) == ("pass", ("1",))
    with pytest.raises(UserError, match="requires a baseline"):
        decide(as_finished(data, "r"), policy(rule("whole_run"), SINCE, baseline="required"))


# What follows is about every figure of a result and every rule of the policies that ship.
POLICIES = {name: load_policy(name) for name in ("default", "strict")}


def leaves(value, path=()):
    """Paths of everything in a result, containers too."""
    rows = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in rows:
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from leaves(one, (*path, key))


def at(data, path):
    for step in path:
        data = data[step]
    return data


def spoil(data, path, value):
    inner = at(data, path[:-1])
    if value is DELETE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value


FAILING = [
    *(
        {f"arms.1.{path}": value for path, value in values.items()}
        for _, _, changes in TABLE
        for values in changes.values()
    ),
    *(changes for _, _, changes in RUN_TABLE),
]
"""Each alone keeps a result from passing some rule."""
SAYS_SOMETHING_ELSE = {("run", "limit"), ("answers",)}
"""Ends of paths where null is no loss: every item was asked, nothing was generated."""


@pytest.mark.parametrize("name", POLICIES)
def test_the_policies_that_ship_pass_a_result_in_which_all_is_well(make_data, name):
    assert outcome(make_data(), POLICIES[name]) == "pass"


@settings(max_examples=100)
@given(st.data(), st.sampled_from([DELETE, None, math.nan, math.inf, "", "x", "0.5", [], {}]))
def test_nothing_lost_or_spoiled_turns_anything_into_a_pass(make_data, drawn, value):
    data = make_data()
    put(data, drawn.draw(st.sampled_from(FAILING)))
    wanted = POLICIES[drawn.draw(st.sampled_from(sorted(POLICIES)))]
    before = outcome(data, wanted)
    paths = [p for p in leaves(data) if not {p[-1:], p[-2:]} & SAYS_SOMETHING_ELSE]
    path = drawn.draw(st.sampled_from(paths))
    spoil(data, path, value)
    after = outcome(data, wanted)
    assert before == "pass" or after != "pass", (path, value)


@pytest.mark.parametrize("value", [DELETE, None, math.nan, "0.5"], ids=str)
def test_a_figure_that_a_policy_needs_cannot_be_lost(make_data, value):
    """Of the arm in question every number that strict reads: without it there is no pass."""
    claims = ("target_result", "over_placebo", "specificity")
    held = ("non_targets", "domains.0", "domains.1")
    needed = [
        *(
            f"{one}.{name}"
            for one in claims
            for name in ("score_a", "score_b", "p_adjusted", "ci95")
        ),
        *(f"{one}.{name}" for one in held for name in ("ci95", "non_inferiority")),
        *(f"{one}.non_inferiority.lower_bound" for one in held),
        *(f"domains.{n}.{name}" for n in (0, 1) for name in ("p_adjusted", "score_a", "score_b")),
        "target_result.mde80",
        *(f"probe.{name}" for name in ("null_max_difference", "logit_max_change")),
        *(f"{ANSWERS}.b.{name}" for name in ("mean_tokens", "invalid", "truncated")),
        *(f"{one}.{name}" for one in ("target_result", "domains.0") for name in ("gained", "lost")),
    ]
    for path in needed:
        data = make_data()
        put(data["arms"][1], {path: value})
        assert outcome(data, POLICIES["strict"]) != "pass", path


ENDS = [
    ("target_result", "ci95"), ("non_targets", "ci95"), ("domains", 0, "ci95"),
    ("over_placebo", "ci95"), ("specificity", "ci95"),
]  # fmt: skip


@settings(max_examples=60)
@given(
    st.data(),
    st.sampled_from(ENDS),
    st.floats(-0.3, 0.3),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.sampled_from([row for row in TABLE if "at_least" in row[1]]),
)
def test_a_wider_interval_never_makes_a_pass(make_data, drawn, path, centre, reach, more, row):
    data = make_data()
    wanted = policy(rule(row[0], **row[1]))
    ends = at(data["arms"][1], path)
    ends[:] = [centre - reach, centre + reach]
    before = outcome(data, wanted)
    ends[:] = [centre - reach - more, centre + reach + more]
    assert before == "pass" or outcome(data, wanted) != "pass"


WORSE = {
    "target_gain": [("target_result", "score_b"), ("target_result", "ci95")],
    "gain_over_placebo": [("over_placebo", "ci95")],
    "retention": [("non_targets", "ci95")],
    "non_target_change": [
        ("non_targets", "ci95"), ("non_targets", "non_inferiority", "lower_bound"),
    ],
    "worst_domain_change": [
        ("domains", 0, "ci95"), ("domains", 0, "score_b"),
        ("domains", 0, "non_inferiority", "lower_bound"),
    ],
}  # fmt: skip


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(WORSE)),
    st.floats(-0.3, 0.3),
    st.floats(0, 0.3),
    st.booleans(),
    st.floats(-0.4, 1.0),
)
def test_a_worse_figure_never_gives_a_better_verdict(make_data, metric, up, down, fell, bound):
    """All of a figure moves by as much: its value, both ends, its one-sided bound."""
    data, wanted = make_data(), policy(rule(metric, at_least=bound))
    arm = data["arms"][1]
    arm["domains"][0]["p_adjusted"] = 0.01 if fell else 1.0

    def move(by):
        for *steps, last in WORSE[metric]:
            row = at(arm, steps)
            row[last] = [end + by for end in row[last]] if last == "ci95" else row[last] + by
        return RANK[outcome(data, wanted)]

    better = move(up)
    assert move(-down) <= better


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_cost_never_gives_a_better_verdict(make_data, low, more):
    data, wanted = make_data(), policy(rule("invalid_rate", at_most=0.5))
    figures = data["arms"][1]["target_result"]["answers"]["b"]
    figures["invalid"] = low
    better = RANK[outcome(data, wanted)]
    figures["invalid"] = min(1.0, low + more)
    assert RANK[outcome(data, wanted)] <= better


@given(st.lists(st.sampled_from(FAILING), max_size=4))
def test_case_23_fail_if_and_only_if_a_critical_rule_failed(make_data, changes):
    data = make_data()
    for one in changes:
        try:
            put(data, one)
        except (KeyError, TypeError):  # an earlier change took the figure away
            return
    try:
        found = decide(as_finished(data, "r"), POLICIES["default"])
    except UserError:
        return
    failed = [
        one for one in found.rulings
        if one.tier == "critical" and one.state in ("unmet", "missing")
    ]  # fmt: skip
    open_ = [one for one in found.rulings if one.tier != "advisory" and one.state != "met"]
    assert found.exit_code == (1 if failed else 2 if open_ else 0)
