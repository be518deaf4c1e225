"""What follows from an arm's comparisons, against figures by hand and by other libraries."""

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from dsmoe_eval.results.arms import Arm
from dsmoe_eval.results.paired import Domain, Levels, NonInferiority, Paired, Pooled, Rates
from dsmoe_eval.results.terms import NOTHING
from dsmoe_eval.stats import claim, compare_paired, non_inferiority

LEVELS = Levels(significance_level=0.05, margin=0.02)
TESTED = ("ci95", "p_value", "test", "clusters")
COUNTS = ("n", "score_a", "score_b", "gained", "lost")


def figures_of(scores, p_adjusted=None):
    result = compare_paired(*scores)
    known = None if math.isnan(result.mde80) else result.mde80
    figures = {name: getattr(result, name) for name in TESTED}
    return result, figures | {"mde80": known, "p_adjusted": p_adjusted}


def stored(scores, answers=None, p_adjusted=None):
    result, figures = figures_of(scores, p_adjusted)
    return figures | {name: getattr(result, name) for name in COUNTS} | {"answers": answers}


def held(scores):
    found = non_inferiority(*scores, LEVELS.margin, LEVELS.significance_level / 2)
    return {"non_inferiority": NonInferiority(lower_bound=found.lower_bound, p_value=found.p_value)}


def arm_of(target, others, answers=None, domains=None):
    """An arm on math of the scores of base and its own; `domains` where they are not the tasks."""
    rows = [
        Domain(**(stored(own) | held(own)), task=task, domain=(domains or {}).get(task, task))
        for task, own in others.items()
    ]
    pool = [np.concatenate(side) for side in zip(*others.values(), strict=True)]
    arm = Arm(
        variant="contrast", target="math", settings=None, profile=None, probe=None,
        cells=dict.fromkeys(("math_task", *others), "0" * 16),
        target_result=Paired(**stored(target, answers)),
        non_targets=Pooled(**(figures_of(pool, 1.0)[1] | held(pool))),
        domains=tuple(rows), over_placebo=None, specificity=None, over_prompt=None,
        information=NOTHING, prompt_tokens=(1.0, 1.0),
    )  # fmt: skip
    arm.judge(LEVELS)
    return arm


TARGET = ([0, 0, 1, 0], [1, 1, 0, 0])
OTHERS = {"law": ([1, 1, 1, 1], [1, 1, 1, 0]), "art": ([1, 0], [1, 1])}


def test_gains_and_costs_by_hand():
    found = arm_of(TARGET, OTHERS).generalization
    assert found.target_gain == 0.25
    change = found.non_target_change
    assert (change.pooled, change.macro, change.worst) == (0.0, 0.125, -0.25)
    assert change.worst_domain == "law"
    assert found.retention == 1.0
    assert (found.flipped.target, found.flipped.non_target) == (0.75, pytest.approx(2 / 6))
    assert found.all_non_inferior.non_inferior is False
    assert found.regressions == ()
    assert arm_of(TARGET, OTHERS).equal_to_base is False
    assert arm_of((TARGET[0],) * 2, {"law": ([1, 0], [1, 0])}).equal_to_base is True


@pytest.mark.parametrize("graded", [False, True])
def test_the_pool_is_its_domains_items(graded):
    draw = np.random.default_rng(7)
    others = {
        name: [draw.random(n) if graded else draw.random(n) < 0.6 for _ in range(2)]
        for name, n in (("law", 90), ("art", 33), ("chess", 61))
    }
    pooled = compare_paired(*(np.concatenate(side) for side in zip(*others.values(), strict=True)))
    arm = arm_of(TARGET, others)
    found = arm.non_target_result
    for name in ("n", "gained", "lost", "clusters", "test", "ci95", "p_value"):
        assert getattr(found, name) == getattr(pooled, name)
    exact = pytest.approx if graded else float
    for name in ("score_a", "score_b", "delta"):
        assert getattr(found, name) == exact(getattr(pooled, name))
    assert found.claim.words == claim(pooled, 0.02, 0.05, 1.0).words
    adjusted = multipletests([row.p_value for row in arm.domains], method="holm")[1]
    fell = [r.task for r, p in zip(arm.domains, adjusted, strict=True) if p <= 0.05 and r.delta < 0]
    assert list(arm.generalization.regressions) == fell
    p_values = [non_inferiority(*own, 0.02, 0.025).p_value for own in others.values()]
    assert arm.generalization.all_non_inferior.p_value == max(p_values)


def answers_of(before, after, n=4, count=4):
    sides = (Rates(mean_tokens=m, truncated=t, invalid=i) for m, t, i in (before, after))
    a, b = sides
    return {"a": a, "b": b, "n": n, "count": count, "both_whole": {"n": 0, "delta": None}}


def test_scored_options_cost_no_tokens_and_are_valid():
    found = arm_of(TARGET, OTHERS).generalization
    assert (found.tokens_ratio, found.invalid, found.truncated) == (1.0, 0.0, 0.0)


def test_answers_are_counted_where_they_were_generated():
    found = arm_of(TARGET, OTHERS, answers_of((4.0, 0.0, 0.0), (7.0, 0.5, 0.25))).generalization
    assert (found.tokens_ratio, found.truncated, found.invalid) == (28 / 16, 0.5, 0.25)
    nothing = answers_of((0.0, 0.0, 1.0), (4.0, 0.0, 0.0))
    assert arm_of(TARGET, OTHERS, nothing).generalization.tokens_ratio is None


def test_where_base_is_never_right_nothing_is_retained():
    found = arm_of(([0, 1], [1, 1]), {"law": ([0, 0, 0], [0, 1, 0])})
    assert found.generalization.retention is None


def test_a_domain_that_fell_is_named_by_its_task_where_a_domain_has_several():
    fell = OTHERS | {"physics": (np.ones(60), np.arange(60) > 20)}
    found = arm_of(TARGET, fell).generalization
    assert found.regressions == ("physics",)
    assert found.non_target_change.worst_domain == "physics"
    two = {"physics_1": fell["physics"], "physics_2": OTHERS["law"]}
    found = arm_of(TARGET, two, domains=dict.fromkeys(two, "physics")).generalization
    assert found.regressions == ("physics_1",)
