"""Figures are read as they stand, or are missing with the path that lacks them."""

import pytest

from dsmoe_eval.gates.figures import MissingFigureError, interval, number, read_figure
from dsmoe_eval.results.finished import as_finished

KEY = ("contrast", "math")


def test_a_path_that_breaks_is_named():
    for row, words in (
        ({}, "a is missing"),
        ({"a": None}, r"a\.b is missing"),
        ({"a": {"b": "x"}}, r"a\.b is 'x', which is no number"),
        ({"a": {"b": False}}, "no number"),
        ({"a": {"b": float("nan")}}, "no number"),
        ({"a": {"b": 10**400}}, "no number"),
        ({"a": [1]}, r"a\.b is missing"),
    ):
        with pytest.raises(MissingFigureError, match=words):
            number(row, "a", "b")
    assert number({"a": {"b": 3}}, "a", "b") == 3.0


@pytest.mark.parametrize("ends", [None, [], [1], [1, 2, 3], "ab", [0, None], [0.2, 0.1], {}])
def test_what_is_no_interval(ends):
    with pytest.raises(MissingFigureError):
        interval({"ci95": ends})


def test_retention_and_its_interval_are_those_of_the_scores(data, contrast):
    figures = contrast["non_target_result"]
    figures |= {"score_a": 0.8, "score_b": 0.76, "delta": -0.04, "ci95": [-0.06, -0.02]}
    contrast["generalization"]["retention"] = 0.76 / 0.8
    found = read_figure(as_finished(data, "r"), "retention", KEY)
    assert (found.value, found.low, found.high) == pytest.approx((0.95, 0.74 / 0.8, 0.78 / 0.8))


def test_the_lower_end_is_no_higher_than_the_plans_bound(data, contrast):
    figures = contrast["non_target_result"]
    figures["ci95"] = [-0.03, 0.01]
    for bound, low in ((-0.02, -0.03), (-0.04, -0.04)):
        figures["non_inferiority"]["lower_bound"] = bound
        assert read_figure(as_finished(data, "r"), "non_target_change", KEY).low == low


def test_the_worst_domain_is_named(data, contrast):
    contrast["domains"][1] |= {"delta": -0.03, "ci95": [-0.05, -0.01]}
    found = read_figure(as_finished(data, "r"), "worst_domain_change", KEY)
    assert (found.value, found.low, found.high) == (-0.03, -0.05, 0.019)
    assert found.words == "worst: physics"


def test_fine_tuning_has_no_probes(data):
    data["variants"].append("sft-lora")
    for target in data["targets"]:
        row = next(a for a in data["arms"] if (a["variant"], a["target"]) == ("contrast", target))
        data["arms"].append(row | {"variant": "sft-lora", "probe": None})
    result = as_finished(data, "r")
    assert read_figure(result, "probes_passed", ("sft-lora", "math")).passed
    with pytest.raises(MissingFigureError, match="no placebo of sft-lora"):
        read_figure(result, "placebo_gain", ("sft-lora", "math"))
