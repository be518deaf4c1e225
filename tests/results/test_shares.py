"""Shares of the best profile's gain, on runs by chance: where they are defined, and by hand."""

import numpy as np
import pandas as pd
import pytest

from dsmoe_eval.leaderboards.consistency import adjustment_faults
from dsmoe_eval.results.finished import FinishedRun, read_finished
from dsmoe_eval.results.recompute import recompute
from dsmoe_eval.results.shares import best_profile, unbeaten, with_shares
from dsmoe_eval.stats import holm, ratio_of_gains

BEST = "learned-profile"
CONTROLS = [f"{BEST}+{one}" for one in ("shuffled", "wrong", "pooled")]
VARIANTS = ["base", "contrast", BEST, *CONTROLS]
FLIPS = {"contrast": (0.2, 0.02), BEST: (0.4, 0.02)}
FLIPS |= dict.fromkeys(CONTROLS, (0.05, 0.04))
MADE = {"variants": VARIANTS, "texts": True, "domains": ("math", "law"),
        "targets": ("math",), "generated": None, "items": 80}  # fmt: skip


@pytest.fixture(scope="module")
def finished(make_run):
    return read_finished(make_run(**MADE, target=FLIPS))


def rows_of(finished, cell):
    return pd.read_parquet(finished.folder.cell(cell) / "samples.parquet").set_index("item")


def test_the_share_is_the_ratio_of_the_two_gains(finished):
    assert best_profile(finished.result) == BEST
    for target in finished.result.targets:
        own = finished.arms["contrast", target].share_of_best
        gains = [finished.arms[name, target].target_result.delta for name in ("contrast", BEST)]
        assert own.share == pytest.approx(gains[0] / gains[1])
        assert own.ci95[0] < own.share < own.ci95[1]
        assert (own.best, own.reason) == (BEST, "")
        cells = [finished.arms[name, target].cells[f"{target}_task"] for name in ("contrast", BEST)]
        (base,) = (row.cell for row in finished.result.base if row.task == f"{target}_task")
        scores = [rows_of(finished, cell)["score"] for cell in (base, *cells)]
        assert own.ci95 == pytest.approx(ratio_of_gains(*scores).ci95)


def test_only_steering_arms_have_one(finished):
    having = {arm.variant for arm in finished.result.arms if arm.share_of_best is not None}
    assert having == {"contrast"}


def test_the_gain_over_all_targets_answers_is_compared_in_its_family(finished):
    rows = [finished.arms[BEST, target] for target in finished.result.targets]
    for arm in rows:
        pooled = finished.arms[f"{BEST}+pooled", arm.target]
        expected = arm.target_result.score_b - pooled.target_result.score_b
        assert arm.over_pooled.delta == pytest.approx(expected)
        gains = [one.outcome("gold_logprob").target.gain for one in (arm, pooled)]
        assert arm.outcome("gold_logprob").over_pooled.gain == pytest.approx(gains[0] - gains[1])
    for family in ([a.over_pooled for a in rows],
                   [a.outcome("gold_logprob").over_pooled for a in rows]):  # fmt: skip
        adjusted = holm([one.p_value for one in family])
        assert [one.p_adjusted for one in family] == pytest.approx(list(adjusted))
    others = [arm for arm in finished.result.arms if arm.variant != BEST]
    assert all(arm.over_pooled is None for arm in others)
    assert not list(adjustment_faults(finished.result.arms))


def test_it_is_computed_again_from_the_samples(finished):
    assert recompute(finished.folder) == finished.result


def shares_of(finished, change, **updates):
    """The shares on math, where the learned profile's arms are changed, or the result."""
    arms = [change(arm) if arm.variant == BEST else arm for arm in finished.result.arms]
    for arm in arms:
        arm.judge(finished.result.levels)
    result = finished.result.model_copy(update={"arms": tuple(arms)} | updates)
    found = FinishedRun("changed", with_shares(FinishedRun("", result, finished.folder)))
    return found.arms["contrast", "math"].share_of_best, found


def test_a_profile_that_is_not_above_a_control_defines_no_share(finished):
    def unsure(arm):
        row = arm.over_pooled.model_copy(update={"p_adjusted": 0.06})
        return arm.model_copy(update={"over_pooled": row})

    def worse(arm):
        row = arm.specificity
        swapped = {"score_a": row.score_b, "score_b": row.score_a}
        row = row.model_copy(update=swapped | {"gained": row.lost, "lost": row.gained})
        return arm.model_copy(update={"specificity": row})

    for change, name in ((unsure, "pooled"), (worse, "wrong")):
        own, found = shares_of(finished, change)
        assert unbeaten(found.arms[BEST, "math"], found.result) == [f"{BEST}+{name}"]
        assert (own.share, own.ci95) == (None, None)
        assert own.reason == f"{BEST} is not above {BEST}+{name}"


def test_a_profile_that_only_loses_less_than_its_controls_defines_no_share(make_run):
    harmful = dict.fromkeys(CONTROLS, (0.02, 0.9)) | {BEST: (0.02, 0.3), "contrast": (0.02, 0.2)}
    found = read_finished(make_run(**MADE, target=harmful))
    best = found.arms[BEST, "math"]
    assert best.target_result.delta < 0
    assert unbeaten(best, found.result) == []
    own = found.arms["contrast", "math"].share_of_best
    assert (own.share, own.ci95) == (None, None)
    assert own.reason == f"{BEST} gains nothing over base"


def test_a_control_that_the_plan_lacks_is_named(finished):
    own, _ = shares_of(finished, lambda arm: arm.model_copy(update={"specificity": None}))
    assert own.share is None
    assert own.reason == f"{BEST} lacks a control in the plan ({BEST}+wrong)"


def test_the_primary_outcome_decides(finished):
    own, found = shares_of(finished, lambda arm: arm, outcome="gold_logprob")
    arms = [found.arms[name, "math"] for name in ("contrast", BEST)]
    gains = [arm.outcome("gold_logprob").target.gain for arm in arms]
    assert own.share == pytest.approx(gains[0] / gains[1])
    assert np.isfinite(own.ci95).all()
