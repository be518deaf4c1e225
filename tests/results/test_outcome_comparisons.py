"""Comparisons by outcome of a run by chance, against another library and plain arithmetic."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats

from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.outcome_comparisons import outcome_column
from dsmoe_eval.stats import holm

OUTCOMES = ("gold_logprob", "bits_per_byte")


@pytest.fixture(scope="module")
def finished(make_run):
    return read_finished(make_run(texts=True, items=120, outcome="gold_logprob"))


def rows_of(finished, cell):
    return pd.read_parquet(finished.folder.cell(cell) / "samples.parquet")


def test_every_arm_has_both_outcomes_and_the_tasks_that_lack_one_are_named(finished):
    assert finished.result.outcome == "gold_logprob"
    for arm in finished.result.arms:
        assert [one.outcome for one in arm.outcomes] == list(OUTCOMES)
        gold, bits = arm.outcomes
        assert gold.without == ("poetry_task",)
        assert bits.without == ()
        assert [row.task for row in gold.tasks] == ["math_task", "law_task", "biology_task"]
        assert set(arm.cells) == {f"{d}_task" for d in ("math", "law", "biology", "poetry")}
        assert {row.domain for row in bits.tasks} == {"math", "law", "biology", "poetry"}
        assert bits.non_targets.n == sum(r.n for r in bits.tasks if r.domain != arm.target)
        assert arm.outcome("bits_per_byte") is bits


def test_levels_are_lm_evals_ratio_of_sums_and_gains_their_difference(finished):
    for arm in finished.result.arms:
        for row in arm.outcome("bits_per_byte").tasks:
            a, b = (rows_of(finished, cell) for cell in row.cells)
            levels = [
                -one["loglikelihood"].sum() / one["bytes"].sum() / math.log(2) for one in (a, b)
            ]
            assert (row.level_a, row.level_b) == pytest.approx(levels, abs=1e-9)
            assert row.gain == pytest.approx(levels[0] - levels[1], abs=1e-9)
            assert row.clusters == a["cluster"].nunique() == row.n / 2
            # The former definition: the ratio's influence function is linear in each text.
            weighted = (b["loglikelihood"] - a["loglikelihood"]) / a["bytes"] / math.log(2)
            assert row.gain == pytest.approx(np.average(weighted, weights=a["bytes"]), abs=1e-9)


def test_the_interval_is_near_that_of_a_cluster_robust_regression(finished):
    """statsmodels' sandwich with few corrections, without what a sample may hide."""
    arm = finished.arms["contrast", "math"]
    for row in arm.outcome("bits_per_byte").tasks:
        a, b = (rows_of(finished, cell) for cell in row.cells)
        values = (b["loglikelihood"] - a["loglikelihood"]) / a["bytes"].mean() / math.log(2)
        codes = pd.factorize(a["cluster"])[0]
        fit = sm.OLS(values, np.ones(len(values))).fit(
            cov_type="cluster", cov_kwds={"groups": codes}
        )
        assert row.gain == pytest.approx(fit.params.iloc[0], abs=1e-9)
        low, high = row.ci95
        wide = (high - low) / 2 / scipy_stats.t.ppf(0.975, row.clusters - 1)
        assert fit.bse.iloc[0] <= wide < 1.35 * fit.bse.iloc[0]


def test_log_probabilities_of_items_on_their_own_have_a_paired_t_test(finished):
    row = finished.arms["contrast", "math"].outcome("gold_logprob").target
    one = finished.arms["contrast", "math"].outcome("gold_logprob").tasks[0]
    a, b = (rows_of(finished, cell)["gold_logprob"] for cell in one.cells)
    assert row.test == "paired t"
    assert row.gain == pytest.approx((b - a).mean(), abs=1e-12)
    assert row.gained == (b > a).sum()
    # Never below the plain test's: the standard error also covers what a sample may hide.
    plain = scipy_stats.ttest_rel(b, a).pvalue
    assert plain <= row.p_value < 0.001


@pytest.mark.parametrize("name", OUTCOMES)
def test_families_are_those_of_the_score(finished, name):
    arms = [arm for arm in finished.result.arms if arm.variant != "sham"]
    for pick in (lambda o: o.target, lambda o: o.non_targets):
        for controls in (False, True):
            own = [arm for arm in arms if (arm.control_of is not None) == controls]
            rows = [pick(arm.outcome(name)) for arm in own]
            adjusted = list(holm([row.p_value for row in rows]))
            assert [row.p_adjusted for row in rows] == pytest.approx(adjusted)
    for arm in arms:
        others = [row for row in arm.outcome(name).tasks if row.domain != arm.target]
        adjusted = list(holm([row.p_value for row in others]))
        assert [row.p_adjusted for row in others] == pytest.approx(adjusted)
        controlled = arm.variant == "contrast"
        assert (arm.outcome(name).over_placebo is not None) == controlled
        assert (arm.outcome(name).specificity is not None) == controlled
    sham = finished.arms["sham", "math"].outcome(name)
    assert sham.target.claim is None
    assert sham.target.gained == sham.target.lost == sham.target.gain == 0
    assert finished.arms["contrast", "math"].outcome(name).target.claim.verdict == "improves"


def test_gain_over_placebo_is_the_difference_of_the_gains(finished):
    for name in OUTCOMES:
        own, placebo = (
            finished.arms[variant, "math"].outcome(name) for variant in ("contrast", "random")
        )
        expected = own.target.gain - placebo.target.gain
        assert own.over_placebo.gain == pytest.approx(expected, abs=1e-9)


def test_equal_bytes_weigh_every_text_alike():
    rows = pd.DataFrame({"loglikelihood_a": [-10.0, -20.0], "bytes_a": [5, 5]})
    values = outcome_column("bits_per_byte", rows, "a")
    assert -values == pytest.approx([2 / math.log(2), 4 / math.log(2)])
