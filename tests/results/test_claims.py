"""Claims by the plan's families, and what was gained and cost, against other computations."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from dsmoe_eval.registry import load_plan
from dsmoe_eval.results.arms import OVER
from dsmoe_eval.results.claims import Contrasts, adjust
from dsmoe_eval.results.schema import FAMILIES
from dsmoe_eval.stats import compare_paired, non_inferiority
from dsmoe_eval.variants import get_variant

PLAN = load_plan("lab")[0]
DRAW = np.random.default_rng(11)


def pairs(n, right_a, right_b):
    return DRAW.random(n) < right_a, DRAW.random(n) < right_b


def contrasts(name, target, others, placebo=None, plain=None):
    results = [compare_paired(*scores) for scores in others]
    pooled = [np.concatenate(side) for side in zip(*others, strict=True)]
    return Contrasts(
        variant=get_variant(name),
        target=compare_paired(*target),
        pooled=compare_paired(*pooled),
        pooled_held=non_inferiority(*pooled, PLAN.margin),
        domains=tuple(results),
        held=tuple(non_inferiority(*scores, PLAN.margin) for scores in others),
        over=dict.fromkeys(OVER) | {"over_placebo": placebo, "over_lora": plain},
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


def test_trainings_with_a_loss_have_a_family_over_those_without_it():
    over = [compare_paired(*pairs(200, 0.3, right)) for right in (0.38, 0.42)]
    names = ("sft-lora", "sft-lora-cka", "sft-simsmoe")
    rows = [
        contrasts(name, pairs(50, 0.3, 0.5), [pairs(50, 0.9, 0.9)], plain=plain)
        for name, plain in zip(names, [None, *over], strict=True)
    ]
    found = [one.over["over_lora"] for one in adjust(rows)]
    assert found[0] is None
    assert found[1:] == pytest.approx(holm(over))


def test_families_are_those_of_the_plan(arms):
    found = adjust(arms)
    assert (found[0].target, found[0].pooled, found[0].over["over_placebo"]) == (None, None, None)
    assert found[0].domains == (None, None, None)
    for name in ("target", "pooled"):
        for family in ((1, 3), (2,)):  # the arms, and the control
            adjusted = [getattr(found[place], name) for place in family]
            assert adjusted == pytest.approx(holm([getattr(arms[p], name) for p in family]))
    placebo = [found[place].over["over_placebo"] for place in (1, 3)]
    assert placebo == pytest.approx(holm([arms[place].over["over_placebo"] for place in (1, 3)]))
    assert found[2].over["over_placebo"] is found[1].over["specificity"] is None
    for arm, one in zip(arms[1:], found[1:], strict=True):
        assert list(one.domains) == pytest.approx(holm(arm.domains))
    assert set(FAMILIES) == {"target", "non_target", "domains", *OVER}
