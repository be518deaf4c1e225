"""What follows from a comparison's stored figures, against `stats` on the scores themselves."""

import math

import numpy as np
import pytest

from dsmoe_eval.results.paired import NonInferiority, Paired
from dsmoe_eval.stats import claim, compare_paired, non_inferiority

from .test_arms import COUNTS, LEVELS, TESTED, stored


def test_a_claim_is_that_of_the_scores():
    draw = np.random.default_rng(8)
    for share in (0.35, 0.5, 0.65):
        scores = draw.random(200) < 0.5, draw.random(200) < share
        result = compare_paired(*scores)
        for p in (result.p_value, 0.04, 0.06):
            paired = Paired(**stored(scores, p_adjusted=p))
            paired.judge(LEVELS)
            assert paired.claim == claim(result, LEVELS.margin, LEVELS.significance_level, p)
            assert paired.delta == result.delta
    assert Paired(**stored(scores)).claim is None
    with pytest.raises(ValueError, match="part of no run"):
        _ = Paired(**stored(scores, p_adjusted=0.5)).claim


def test_of_one_cluster_no_interval_is_said():
    scores = [0.5, 0.25, 0.0], [0.5, 0.5, 0.5]
    result = compare_paired(*scores, clusters=["one"] * 3)
    assert math.isnan(result.ci95[0])
    figures = {name: getattr(result, name) for name in (*TESTED, *COUNTS)} | {"answers": None}
    paired = Paired(**(figures | {"ci95": (-1.0, 1.0), "mde80": None, "p_adjusted": 1.0}))
    paired.judge(LEVELS)
    assert paired.claim.words == claim(result, LEVELS.margin, LEVELS.significance_level, 1.0).words
    assert "no interval" in paired.claim.words


@pytest.mark.parametrize("lost", [0, 3, 9, 30])
@pytest.mark.parametrize("kind", ["binary", "graded", "clustered"])
def test_non_inferiority_holds_where_stats_say_so(kind, lost):
    base, other = np.ones(200), np.ones(200)
    other[:lost] = 0.0 if kind == "binary" else 0.5
    clusters = np.arange(200) // 2 if kind == "clustered" else None
    found = non_inferiority(base, other, LEVELS.margin, LEVELS.significance_level / 2, clusters)
    held = NonInferiority(lower_bound=found.lower_bound, p_value=found.p_value)
    result = compare_paired(base, other, clusters)
    figures = {name: getattr(result, name) for name in (*TESTED, *COUNTS)}
    mde80 = None if math.isnan(result.mde80) else result.mde80
    paired = Paired(**figures, mde80=mde80, answers=None, non_inferiority=held)
    paired.judge(LEVELS)
    assert (held.non_inferior, held.margin, held.significance_level) == (
        found.non_inferior,
        found.margin,
        found.alpha,
    )
    assert paired.bound_test == found.test
