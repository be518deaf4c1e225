"""Rows of keep-k curves: their figures are those of the comparisons that runs make."""

import numpy as np
import pytest

from dsmoe_eval.stats import compare_paired
from dsmoe_eval.studies.keep_rows import RANDOM, Answered, Kept, base_row, keep_row, pooled

CLUSTERS = tuple("abcdefgh")


def answered(score, gold=None):
    outcomes = {"score": np.array(score, dtype=float)}
    if gold is not None:
        outcomes["gold_logprob"] = np.array(gold, dtype=float)
    return Answered(outcomes, dict.fromkeys(outcomes, CLUSTERS[: len(score)]))


BASE = answered([1, 1, 1, 0, 1, 0, 1, 1], np.linspace(-2, -0.1, 8))
PRUNED = answered([1, 0, 1, 0, 1, 1, 0, 1], np.linspace(-3, -0.2, 8))
DRAWS = (answered([0, 0, 1, 0, 0, 1, 0, 1], np.linspace(-5, -1, 8)),
         answered([0, 1, 1, 0, 0, 0, 0, 0], np.linspace(-4, -2, 8)))  # fmt: skip
CONTROL = Kept(RANDOM, 3, 0.5, 0.4, DRAWS)


def test_a_row_of_a_method():
    row = keep_row("law", Kept("reap", 3, 0.5, 0.9, (PRUNED,)), BASE, CONTROL)
    for kind in ("score", "gold_logprob"):
        base, own = BASE.outcomes[kind], PRUNED.outcomes[kind]
        figures, expected = row[kind], compare_paired(base, own, CLUSTERS)
        assert figures["value"] == pytest.approx(own.mean())
        assert figures["change"] == pytest.approx(own.mean() - base.mean())
        assert figures["change_ci95"] == pytest.approx(expected.ci95)
        mean = np.mean([one.outcomes[kind].mean() for one in DRAWS])
        assert figures["over_random"] == pytest.approx(own.mean() - mean)
        low, high = figures["over_random_ci95"]
        assert low < figures["over_random"] < high


def test_a_row_of_the_control_is_the_mean_of_its_draws():
    row = keep_row("law", CONTROL, BASE, None)
    figures = row["score"]
    assert figures["value"] == pytest.approx((3 / 8 + 2 / 8) / 2)
    assert figures["change"] == pytest.approx(figures["value"] - 6 / 8)
    low, high = figures["change_ci95"]
    assert low < figures["change"] < high
    assert figures["over_random"] is figures["over_random_ci95"] is None


def test_generated_answers_have_no_log_probability():
    generated = answered([1, 0])
    both = pooled([BASE, generated])
    assert both.mean("score") == pytest.approx(7 / 10)
    assert both.mean("gold_logprob") == pytest.approx(BASE.outcomes["gold_logprob"].mean())
    assert base_row("sums", generated)["gold_logprob"] is None
    row = keep_row("sums", Kept("reap", 3, 0.5, 0.9, (generated,)), generated, None)
    assert row["gold_logprob"] is None
    assert str(row["score"]["change"]) == "0.0"  # no minus before a zero
