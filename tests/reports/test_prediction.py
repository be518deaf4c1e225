"""The page of a prediction says what `predict.json` says, and nothing beyond what holds."""

import json
from dataclasses import replace

import pytest

from dsmoe_eval.reports import prediction_page, render_prediction
from dsmoe_eval.studies.prediction import PredictedEffect, ProfilePrediction

ROW = PredictedEffect(
    strength=1.0, share=0.25, part="target", outcome="gold_logprob", items=50, tuning_items=40,
    test_items=1300, holds=True, gain=0.2, ci95=(0.1, 0.3), mde80=0.05, first_order=0.15,
    tuning_gain=0.19, tuning_ci95=(0.05, 0.35),
)  # fmt: skip
BEYOND = replace(
    ROW, strength=4.0, share=1.0, holds=False, gain=None, ci95=None, mde80=None,
    first_order=None, tuning_gain=0.9,
)  # fmt: skip


@pytest.fixture
def found():
    return ProfilePrediction(
        model="tiny", profile="0" * 16, method="m", intervention="bias", experts=8, suite="s",
        domain="law", without=("others",), effects=(ROW, BEYOND),
    )  # fmt: skip


def test_the_page_shows_what_holds_and_says_what_does_not(found, tmp_path):
    text = render_prediction(found, tmp_path).read_text()
    assert json.loads((tmp_path / "predict.json").read_text())["effects"][0]["gain"] == 0.2
    assert "holds up to strength 1 only, so nothing is foretold at 4." in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| target")]
    assert rows[0][2:] == [
        "1", "+0.1500", "+0.2000 [+0.1000, +0.3000]", "+0.1900 [+0.0500, +0.3500]", "0.0500",
        "1,300 |",
    ]  # fmt: skip
    assert rows[1][3:5] == ["", "does not hold"]
    assert "lack of items in the identification or tuning split: others" in text


def test_a_row_without_an_interval_says_so(found):
    lonely = replace(BEYOND, tuning_ci95=None)
    rows = prediction_page(replace(found, effects=(lonely,))).splitlines()
    (row,) = (line.split(" | ") for line in rows if line.startswith("| target"))
    assert row[4:6] == ["no interval", "+0.9000"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "1,300 test items can show 0.0500 or more (80 % power), enough to show it."),
        ({"mde80": 0.25}, "too few to show it"),
        ({"mde80": None}, "the test items are too few to say which change they can show"),
        ({"holds": False, "gain": None}, "holds at no strength, so nothing is foretold at 1."),
        (
            {"holds": False, "gain": None, "tuning_ci95": None},
            "option: nothing is foretold at 1: a task's items of the identification split give "
            "no interval, since they are one cluster, or all differ alike.",
        ),
    ],
)
def test_the_power_of_the_test_is_said(found, changes, words):
    row = replace(ROW, share=1.0, **changes)
    assert words in prediction_page(replace(found, effects=(row,)))
