"""Shares of the best profile, its settings and its sentences, of a run that is given one."""

import pytest

from dsmoe_eval.reports.run_best import (
    NOT_DEFINED,
    learned_settings,
    share_findings,
    share_table,
)
from dsmoe_eval.results.terms import ShareOfBest
from dsmoe_eval.results.training import Learning

from .made import shown

BEST = "learned-profile"
SETTINGS = Learning(
    expert_count=96, log_odds=(-0.51, 0.75), steps=60, best_step=30, outcome_gain=0.4567,
    divergence=0.0061, learning_rate=0.05, batch_size=40, weight=50.0, weights=(20.0, 50.0),
    most_divergence=0.005, most_experts=None, check_every=10,
)  # fmt: skip
REASON = f"{BEST} is not above {BEST}+wrong"


@pytest.fixture
def given(result):
    """The run with a learned profile, which gains where the arm is told to, and shares of it."""

    def make(own, p_adjusted, delta=0.25):
        (arm,) = (one for one in result.arms if (one.variant, one.target) == ("contrast", "math"))
        over = arm.target_result.model_copy(
            update={"n": 20, "score_a": 0.25, "score_b": 0.25 + delta, "gained": 5, "lost": 0,
                    "ci95": (-0.02, 0.0712), "p_adjusted": p_adjusted}
        )  # fmt: skip
        learned = arm.model_copy(
            update={"variant": BEST, "settings": SETTINGS, "over_placebo": over,
                    "specificity": over, "over_pooled": over}
        )  # fmt: skip
        steered = arm.model_copy(update={"share_of_best": own})
        for one in (learned, steered):
            one.judge(result.levels)
        names = ("contrast", BEST, f"{BEST}+shuffled", f"{BEST}+wrong", f"{BEST}+pooled")
        return result.model_copy(update={"variants": names, "arms": (steered, learned)})

    return make


def test_a_run_without_a_learned_profile_says_nothing_of_it(result):
    assert share_findings(result) == []
    assert not share_table(result).rows
    assert not learned_settings(result).rows


def test_a_share_has_its_interval_and_its_source(given):
    found = given(ShareOfBest(best=BEST, share=0.456, ci95=(0.2, 0.81)), 0.001)
    table = share_table(found)
    assert shown(table) == [("contrast", "46 % [20, 81]")]
    assert table.rows[0].cells[1].source == (
        "comparisons.json: arms[contrast, math].share_of_best.share"
    )
    assert "a lower bound of what profiles can reach" in table.caption
    (words,) = share_findings(found)
    assert words.startswith(f"contrast reaches 46 % of the gain of {BEST}, the best profile found")


def test_a_share_without_an_interval_says_so(given):
    own = ShareOfBest(best=BEST, share=0.456, ci95=None, reason="too uncertain")
    table = share_table(given(own, 0.001))
    assert shown(table) == [("contrast", "46 % [no interval]")]
    assert table.rows[0].cells[1].source.endswith(": too uncertain")


def test_where_the_best_profile_gains_nothing_the_largest_gain_is_named(given):
    found = given(ShareOfBest(best=BEST, share=None, ci95=None, reason=REASON), 0.2)
    table = share_table(found)
    assert shown(table) == [("contrast", NOT_DEFINED)]
    assert table.rows[0].cells[1].source.endswith(f": {REASON}")
    (words,) = share_findings(found)
    assert words.startswith(f"On math even {BEST}, the best profile found, gains nothing over ")
    assert words.endswith("allows at most +7.1 points.")


def test_the_settings_of_a_learned_profile(given):
    found = given(None, 0.001)
    assert shown(learned_settings(found)) == [
        (BEST, "math", "50", "20, 50", "30 of 60", "+0.457", "0.0061, above 0.005", "96",
         "-0.51 to +0.75")
    ]  # fmt: skip
    for cell in learned_settings(found).rows[0].cells[2:]:
        assert f"arms[{BEST}, math].settings." in cell.source
