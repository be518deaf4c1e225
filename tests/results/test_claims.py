"""Claims by the plan's families, and what was gained and cost, against other computations."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from dsmoe_eval.registry import load_plan
from dsmoe_eval.results.claims import FAMILIES, Contrasts, claims_of, figures_of
from dsmoe_eval.stats import compare_paired, non_inferiority
from dsmoe_eval.variants import get_variant

PLAN = load_plan("lab")[0]
DRAW = np.random.default_rng(11)


def pairs(n, right_a, right_b):
    return DRAW.random(n) < right_a, DRAW.random(n) < right_b


def contrasts(name, target, others, placebo=None):
    results = [compare_paired(*scores) for scores in others]
    return Contrasts(
        variant=get_variant(name),
        target=compare_paired(*target),
        pooled=compare_paired(*(np.concatenate(side) for side in zip(*others, strict=True))),
        domains=tuple(results),
        held=tuple(non_inferiority(*scores, PLAN.margin) for scores in others),
        placebo=placebo,
        wrong=None,
    )


@pytest.fixture(scope="module")
def arms():
    placebo = compare_paired(*pairs(200, 0.3, 0.5))
    others = [[pairs(80, 0.9, 0.7), pairs(90, 0.9, 0.88), pairs(70, 0.9, 0.85)] for _ in range(4)]
    return [
        contrasts("sham", pairs(200, 0.3, 0.3), others[0]),
        contrasts("contrast", pairs(200, 0.3, 0.44), others[1], placebo),
        contrasts("random", pairs(200, 0.3, 0.36), others[2]),
        contrasts("rice", pairs(200, 0.4, 0.3), others[3], compare_paired(*pairs(200, 0.3, 0.4))),
    ]


def holm(results):
    return multipletests([one.p_value for one in results], method="holm")[1]


def test_families_are_those_of_the_plan(arms):
    claimed = claims_of(arms, PLAN)
    assert (claimed[0].target, claimed[0].pooled, claimed[0].placebo) == ({}, {}, {})
    assert claimed[0].domains == ({}, {}, {})
    for name in ("target", "pooled"):
        adjusted = [getattr(one, name)["p_adjusted"] for one in claimed[1:]]
        assert adjusted == pytest.approx(holm([getattr(arm, name) for arm in arms[1:]]))
    placebo = [claimed[place].placebo["p_adjusted"] for place in (1, 3)]
    assert placebo == pytest.approx(holm([arms[place].placebo for place in (1, 3)]))
    assert claimed[2].placebo == claimed[1].wrong == {}
    for arm, one in zip(arms[1:], claimed[1:], strict=True):
        adjusted = [row["p_adjusted"] for row in one.domains]
        assert adjusted == pytest.approx(holm(arm.domains))
    assert set(FAMILIES) == {"target", "non_target", "domains", "over_placebo", "specificity"}


def test_claims_follow_the_adjusted_p_values(arms):
    for arm, one in zip(arms[1:], claims_of(arms, PLAN)[1:], strict=True):
        for result, said in ((arm.target, one.target), (arm.pooled, one.pooled)):
            verdict = said["claim"]["verdict"]
            shown = said["p_adjusted"] <= PLAN.alpha
            assert (verdict in ("improves", "harms")) == shown
            assert not shown or (verdict == "improves") == (result.delta > 0)


def frame(scores, answers=None):
    """Items of base and an arm; answers: (tokens, truncated, invalid) of each item's samples."""
    a, b = (np.asarray(side, dtype=float) for side in scores)
    rows = {"item": np.arange(len(a)).astype(str), "score_a": a, "score_b": b}
    for place, name in enumerate(("tokens", "truncated", "invalid")):
        for side in "ab":
            told = answers[side] if answers else [[]] * len(a)
            rows[f"{name}_{side}"] = [[one[place] for one in samples] for samples in told]
    return pd.DataFrame(rows)


@pytest.fixture
def scores():
    target = ([0, 0, 1, 0], [1, 1, 0, 0])
    others = {"law": ([1, 1, 1, 1], [1, 1, 1, 0]), "math": ([1, 0], [1, 1])}
    return target, others


def figures(scores, answers=None):
    target, others = scores
    arm = contrasts("contrast", target, list(others.values()))
    parts = {name: frame(own) for name, own in others.items()}
    return figures_of(arm, frame(target, answers), parts, 0.05)


def test_gains_and_costs_by_hand(scores):
    found = figures(scores)
    assert found["target_gain"] == 0.25
    assert found["non_target_change"] == {
        "pooled": 0.0, "macro": 0.125, "worst": -0.25, "worst_domain": "law"
    }  # fmt: skip
    assert found["retention"] == 1.0
    assert found["flipped"] == {"target": 0.75, "non_target": pytest.approx(2 / 6)}
    assert found["all_hold"]["holds"] is False
    assert found["regressions"] == []


def test_scored_options_cost_no_tokens_and_are_valid(scores):
    found = figures(scores)
    assert (found["tokens_ratio"], found["invalid"], found["truncated"]) == (1.0, 0.0, 0.0)


def test_answers_are_counted_where_they_were_generated(scores):
    short, cut = (4, False, False), (10, True, True)
    answers = {"a": [[short]] * 4, "b": [[short], [short], [cut], [cut]]}
    found = figures(scores, answers)
    assert (found["tokens_ratio"], found["invalid"], found["truncated"]) == (28 / 16, 0.5, 0.5)
    nothing = {"a": [[(0, False, True)]] * 4, "b": [[short]] * 4}
    assert figures(scores, nothing)["tokens_ratio"] is None


def test_where_base_is_never_right_nothing_is_retained():
    found = figures((([0, 1], [1, 1]), {"law": ([0, 0, 0], [0, 1, 0])}))
    assert found["retention"] is None


def test_a_domain_that_fell_is_named(scores):
    target, others = scores
    fell = others | {"physics": (np.ones(60), np.arange(60) > 20)}
    found = figures((target, fell))
    assert found["regressions"] == ["physics"]
    assert found["non_target_change"]["worst_domain"] == "physics"
