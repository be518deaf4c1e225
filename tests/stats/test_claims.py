"""What may be said, on results made by hand and by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dsmoe_eval.stats import (
    PairedResult,
    claim,
    compare_paired,
    holm,
    mcnemar_midp,
    regressions,
)

RESULT = PairedResult(
    n=500, score_a=0.6, score_b=0.6, delta=0.0, ci95=(-0.01, 0.01), p_value=1.0,
    test="mid-p McNemar", gained=5, lost=5, mde80=0.021, clusters=500,
)  # fmt: skip


@pytest.mark.parametrize(
    ("delta", "ci95", "p_value", "verdict", "words"),
    [
        (0.05, (0.01, 0.09), 0.012, "improves",
         "improves by 5.0 points (+5.0, 95 % interval +1.0 to +9.0, p = 0.012)"),
        (-0.05, (-0.09, -0.01), 0.0002, "harms",
         "harms by 5.0 points (-5.0, 95 % interval -9.0 to -1.0, p < 0.001)"),
        (0.01, (0.004, 0.016), 0.05, "improves",
         "improves by 1.0 points, less than the margin of 2.0 points "
         "(+1.0, 95 % interval +0.4 to +1.6, p = 0.050)"),
        (0.0, (-0.01, 0.01), 1.0, "equivalent",
         "equivalent within 2.0 points (+0.0, 95 % interval -1.0 to +1.0, p = 1.000)"),
        (0.01, (-0.01, 0.03), 0.4, "inconclusive",
         "inconclusive (+1.0, 95 % interval -1.0 to +3.0, p = 0.400); "
         "500 items show 2.1 points or more with 80 % power"),
        (0.0, (-0.02, 0.01), 1.0, "inconclusive", None),
    ],
)  # fmt: skip
def test_verdicts_and_words(delta, ci95, p_value, verdict, words) -> None:
    result = replace(RESULT, delta=delta, ci95=ci95, p_value=p_value)
    found = claim(result, margin=0.02)
    assert found.verdict == verdict
    assert words is None or found.words == words


def test_the_adjusted_p_value_decides() -> None:
    result = replace(RESULT, delta=0.05, ci95=(0.01, 0.09), p_value=0.012)
    assert claim(result, 0.02, p_adjusted=0.06).verdict == "inconclusive"
    assert claim(result, 0.02, alpha=0.01).verdict == "inconclusive"


def test_without_interval_or_power_nothing_is_claimed() -> None:
    result = replace(RESULT, ci95=(math.nan, math.nan), mde80=math.nan)
    assert claim(result, 0.02).words == (
        "inconclusive (+0.0, no interval, p = 1.000); "
        "500 items could show no difference, however large"
    )
    assert claim(compare_paired([1, 0], [1, 0]), 0.02).verdict == "inconclusive"
    with pytest.raises(ValueError, match="margin is 0"):
        claim(RESULT, 0)


def test_regressions_are_adjusted_and_point_down() -> None:
    results = [
        replace(RESULT, delta=d, p_value=p)
        for d, p in [(-0.1, 0.001), (0.1, 0.001), (-0.02, 0.03), (-0.01, 0.5)]
    ]
    assert regressions(results) == (True, False, False, False)
    assert regressions(results, alpha=0.06) == (True, False, True, False)
    assert regressions([]) == ()
    assert holm([r.p_value for r in results])[2] == pytest.approx(0.06)


def test_false_claims_of_no_regression_are_rare() -> None:
    """Eight domains without any effect: a false alarm in at most 5 % of runs."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(300):
        changed = rng.binomial(100, 0.1, 8)
        gained = rng.binomial(changed, 0.5)
        results = [
            replace(RESULT, delta=(2 * g - m) / 100, p_value=mcnemar_midp(int(g), int(m - g)))
            for g, m in zip(gained, changed, strict=True)
        ]
        alarms += any(regressions(results))
    assert alarms / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def contradicting(ci95, p_value):
    return PairedResult(
        n=30, score_a=0.5, score_b=0.55, delta=0.05, ci95=ci95, p_value=p_value,
        test="sign-flip permutation, exact", gained=4, lost=1, mde80=0.1, clusters=30,
    )  # fmt: skip


def test_case_11_a_verdict_against_its_interval_says_why():
    words = claim(contradicting((-0.035, 0.135), 0.03), 0.02).words
    assert words.startswith("improves by 5.0 points (+5.0, 95 % interval -3.5 to +13.5")
    assert "the interval contains 0, since the verdict is by the p-value of the sign-flip" in words
    words = claim(contradicting((0.01, 0.135), 0.06), 0.02).words
    assert "inconclusive" in words
    assert "the interval excludes 0, but the verdict is by the p-value" in words
    words = claim(contradicting((0.01, 0.135), 0.03), 0.02, p_adjusted=0.3).words
    assert "it is not adjusted for several comparisons as p is" in words


@pytest.mark.parametrize(
    ("ci95", "p_value"),
    [((0.01, 0.1), 0.01), ((-0.03, 0.1), 0.2), ((math.nan, math.nan), 0.01), ((-0.01, 0.01), 0.5)],
)
def test_case_11_words_say_nothing_where_both_agree(ci95, p_value):
    assert "interval contains" not in claim(contradicting(ci95, p_value), 0.02).words
    assert "interval excludes" not in claim(contradicting(ci95, p_value), 0.02).words
