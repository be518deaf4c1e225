"""Figures are those of the result, or are missing with the reason."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.gates.figures import read_figure
from dsmoe_eval.gates.readings import MissingFigureError
from dsmoe_eval.results.finished import as_finished

KEY = ("contrast", "math")


def test_retention_and_its_interval_are_those_of_the_scores(data, contrast):
    for row in contrast["domains"]:
        row |= {"score_a": 0.8, "score_b": 0.76}
    contrast["non_targets"]["ci95"] = [-0.06, -0.02]
    found = read_figure(as_finished(data, "r"), "retention", KEY)
    assert (found.value, found.low, found.high) == pytest.approx((0.95, 0.74 / 0.8, 0.78 / 0.8))


def test_the_lower_end_is_no_higher_than_the_plans_bound(data, contrast):
    figures = contrast["non_targets"]
    figures["ci95"] = [-0.03, 0.01]
    for bound, low in ((-0.02, -0.03), (-0.04, -0.04)):
        figures["non_inferiority"]["lower_bound"] = bound
        assert read_figure(as_finished(data, "r"), "non_target_change", KEY).low == low


def test_the_worst_domain_is_named(data, contrast):
    contrast["domains"][1] |= {"score_b": 0.47, "ci95": [-0.05, -0.01]}
    found = read_figure(as_finished(data, "r"), "worst_domain_change", KEY)
    assert (found.value, found.low, found.high) == (pytest.approx(-0.03), -0.05, 0.019)
    assert found.words == "worst: physics"


@pytest.mark.parametrize(
    ("metric", "changes", "words"),
    [
        ("target_claim", {"target_result": {"p_adjusted": None}}, "target_result.claim is missing"),
        ("placebo_claim", {"over_placebo": None}, "the plan has no placebo of this arm: VARIANT"),
        ("specificity", {"specificity": None}, "the plan has no wrong-domain control of this arm"),
        ("gain_over_quantized", {"over_quantized": None}, "the plan has no arm base-FORM of"),
        ("probes_passed", {"probe": None}, "probe.null_max_difference is missing"),
    ],
)
def test_what_is_missing_says_why(data, contrast, metric, changes, words):
    for name, change in changes.items():
        contrast[name] = contrast[name] | change if isinstance(change, dict) else change
    with pytest.raises(MissingFigureError, match=words):
        read_figure(as_finished(data, "r"), metric, KEY)
    with pytest.raises(MissingFigureError, match="the run has no arm rice on math"):
        read_figure(as_finished(data, "r"), metric, ("rice", "math"))


def test_fine_tuning_has_no_probes(data):
    data["variants"].append("sft-lora")
    for target in data["targets"]:
        row = next(a for a in data["arms"] if (a["variant"], a["target"]) == ("contrast", target))
        data["arms"].append(row | {"variant": "sft-lora", "probe": None})
    result = as_finished(data, "r")
    assert read_figure(result, "probes_passed", ("sft-lora", "math")).passed
    with pytest.raises(MissingFigureError, match="no placebo of sft-lora"):
        read_figure(result, "placebo_gain", ("sft-lora", "math"))


def test_the_gain_over_the_quantized_model_is_that_beside_it_and_not_beside_base(data, contrast):
    data["variants"] += ["base-int4", "contrast-int4"]
    contrast["over_quantized"] = None
    model = contrast["target_result"] | {"score_b": 0.45, "ci95": [-0.07, -0.03]}
    own = contrast["target_result"] | {"score_b": 0.58, "ci95": [0.05, 0.11]}
    over = contrast["over_prompt"] | {"score_a": 0.45, "score_b": 0.58, "ci95": [0.09, 0.17]}
    for target in data["targets"]:
        row = next(a for a in data["arms"] if (a["variant"], a["target"]) == ("contrast", target))
        data["arms"] += [
            row | {"variant": "base-int4", "target_result": model, "over_quantized": None},
            row | {"variant": "contrast-int4", "target_result": own, "over_quantized": over},
        ]
    run = as_finished(data, "r")
    found = read_figure(run, "gain_over_quantized", ("contrast-int4", "math"))
    assert (found.value, found.low, found.high) == (pytest.approx(0.13), 0.09, 0.17)
    assert read_figure(run, "target_gain", ("contrast-int4", "math")).value == pytest.approx(0.08)
    for missing in ("base-int4", "contrast"):
        with pytest.raises(MissingFigureError, match="base-FORM"):
            read_figure(run, "gain_over_quantized", (missing, "math"))


def test_the_predicted_gain_is_what_was_foretold_by_the_primary_outcome(data):
    rows = [
        {"task": "math_task", "outcome": name, "n": 100, "clusters": 100, "test_clusters": 400,
         "gain": gain, "ci95": ends}
        for name, gain, ends in (("score", 0.1, [0.02, 0.18]), ("gold_logprob", 0.4, None))
    ]  # fmt: skip
    data["foretold"] = {
        "schema_version": 1, "form": None, "digest": "0" * 64,
        "arms": [
            {"variant": one["variant"], "target": one["target"], "profile": None, "changes": rows}
            for one in data["arms"]
        ],
    }  # fmt: skip
    found = read_figure(as_finished(data, "r"), "predicted_gain", KEY)
    assert (found.value, found.low, found.high) == (0.1, 0.02, 0.18)
    data["outcome"] = "gold_logprob"
    with pytest.raises(MissingFigureError, match="no prediction interval"):
        read_figure(as_finished(data, "r"), "predicted_gain", KEY)
    with pytest.raises(MissingFigureError, match="gold_logprob was not foretold"):
        read_figure(as_finished(data, "r"), "predicted_gain", ("contrast", "law"))
    del data["foretold"]
    with pytest.raises(MissingFigureError, match="foretell: true"):
        read_figure(as_finished(data, "r"), "predicted_gain", KEY)


def test_predictions_of_another_profile_are_no_part_of_a_result(data):
    arms = [{"variant": v, "target": "math", "profile": None, "changes": []} for v in ("sham",)]
    data["foretold"] = {"schema_version": 1, "form": None, "digest": "0" * 64, "arms": arms}
    with pytest.raises(UserError, match="foretold lacks the arm contrast on math"):
        as_finished(data, "r")
