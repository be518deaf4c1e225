"""The table and sentences on arms on quantized models, from a result with figures by hand."""

import pytest

from dsmoe_eval.reports.run_quantized import quantized_findings, quantized_gains, rounded_routing
from dsmoe_eval.results.regression import RoutingAgreement
from dsmoe_eval.results.schema import QuantizedRouting

from .made import shown


@pytest.fixture
def rounded(result):
    """The first arms of a target as ones on a model of int4."""
    target = result.arms[0].target
    model, arm, *_ = [one for one in result.arms if one.target == target]
    over = arm.target_result.model_copy(
        update={"score_a": 0.25, "score_b": 0.75, "gained": 3, "lost": 0, "p_adjusted": 0.01,
                "ci95": (0.1, 0.4)}
    )  # fmt: skip
    same = over.model_copy(
        update={"score_b": 0.25, "gained": 0, "p_adjusted": None, "ci95": (-0.1, 0.1)}
    )
    arms = (
        model.model_copy(update={"variant": "base-int4"}),
        arm.model_copy(update={"variant": "contrast-int4", "over_quantized": over}),
        model.model_copy(update={"variant": "contrast-int4+sham", "over_quantized": same}),
    )
    agreement = RoutingAgreement(
        tokens=4000, layers=(0, 1), shared=0.975, by_chance=0.2, shared_by_layer=(1.0, 0.95)
    )
    changes = {"arms": arms, "variants": tuple(one.variant for one in arms)}
    changes |= {"quantized": (QuantizedRouting(form="int4", agreement=agreement),)}
    changed = result.model_copy(update=changes)
    for one in arms:
        one.judge(result.levels)
    return changed


def test_a_run_without_such_arms_says_nothing(result):
    assert shown(quantized_gains(result)) == []
    assert quantized_findings(result) == []
    assert rounded_routing(result.arms[0], result) is None


def test_gains_are_over_base_and_over_the_quantized_model(rounded):
    model, arm, sham = shown(quantized_gains(rounded))
    assert model[0] == "base-int4"
    assert (model[3], arm[3], sham[3]) == (
        "", "+50.0 pp [+10.0, +40.0] ▲", "+0.0 pp [-10.0, +10.0]"
    )  # fmt: skip
    assert {row[4] for row in (model, arm, sham)} == {"97.5%, 20.0%"}
    routing, gain = quantized_findings(rounded)
    assert routing.startswith("The int4 model selects 97.5% of base's experts over 4,000 tokens")
    target = rounded.arms[0].target
    assert gain == (
        "Beyond the int4 model without it, contrast-int4 improves 1 of 1 targets "
        f"({target}); +50.0 to +50.0 pp."
    )
