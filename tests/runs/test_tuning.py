"""The rule by which settings are chosen."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dsmoe_eval.cards import Plan, Tuning
from dsmoe_eval.runs.tuning import Trial, Tuned, choose, tune
from dsmoe_eval.variants import Settings

PLAN = Plan(
    name="p", description="", model="m", suite="s", variants=("base",), margin=0.02,
    tuning=Tuning(expert_counts=(1, 2), strengths={"bias": (1.0, 2.0)}),
)  # fmt: skip


def trial(experts, strength, gain, qualified):
    return Trial(experts, strength, gain, 0.0, 0.0, qualified)


def test_the_best_gain_among_the_qualified():
    tuned = choose([trial(1, 1, 0.1, True), trial(2, 1, 0.2, True), trial(2, 2, 0.9, False)])
    assert tuned.chosen == Settings(2, 1)
    assert tuned.qualified


def test_ties_go_to_fewer_experts_then_less_strength():
    tied = [trial(2, 1, 0.1, True), trial(1, 2, 0.1, True), trial(1, 1, 0.1, True)]
    assert choose(tied).chosen == Settings(1, 1)


def test_ties_of_vectors_go_to_fewer_layers_then_less_strength():
    def vector(layers, strength, qualified):
        return replace(trial(0, strength, 0.1, qualified), layers=layers)

    tied = [vector((1, 2), 0.5, True), vector((2,), 2.0, True), vector((1,), 1.0, True)]
    assert choose(tied).chosen == Settings(0, 1.0, layers=(1,))
    none = choose([replace(one, qualified=False) for one in tied])
    assert (none.chosen, none.qualified) == (Settings(0, 1.0, layers=(1,)), False)
    read = json.loads(json.dumps(none.to_dict()))
    assert Tuned.from_dict(read) == none


def test_where_nothing_qualifies_the_weakest_is_used_and_said_so():
    tuned = choose([trial(2, 1, 0.5, False), trial(1, 2, 0.1, False), trial(1, 1, 0, False)])
    assert tuned.chosen == Settings(1, 1)
    assert not tuned.qualified


def test_a_setting_qualifies_by_its_bound_not_by_its_estimate():
    """A loss of 1.5 points on 200 items is within the margin, and not shown to be."""
    base = {"t": np.zeros(50, dtype=int), "n": np.ones(200, dtype=int)}
    lossy = np.ones(200, dtype=int)
    lossy[:3] = 0
    seen = []

    def scores_at(settings):
        seen.append(settings)
        return {"t": np.ones(50, dtype=int), "n": lossy if settings.strength > 1 else base["n"]}

    grid = [Settings(1, 1.0), Settings(1, 2.0)]
    tuned = tune(PLAN, grid, base, "t", ["n"], scores_at, {"n": list(range(200))})
    weak, strong = tuned.trials
    assert seen == grid
    assert weak.qualified
    assert strong.non_target_delta == pytest.approx(-0.015)
    assert not strong.qualified
    assert tuned.chosen == Settings(1, 1.0)


def test_round_trip():
    tuned = choose([trial(1, 1.0, 0.1, True), trial(2, 1.0, 0.2, False)])
    assert Tuned.from_dict(tuned.to_dict()) == tuned


def test_one_cluster_shows_nothing():
    base = {"t": np.zeros(2), "n": np.ones(4)}
    scores = {"t": np.ones(2), "n": np.ones(4)}
    (only,) = tune(
        PLAN, [Settings(1, 1.0)], base, "t", ["n"], lambda _: scores, {"n": ["same"] * 4}
    ).trials
    assert (only.lower_bound, only.qualified) == (-1.0, False)
