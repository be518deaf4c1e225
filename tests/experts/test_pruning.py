"""The experts that pruning removes, against a loop over experts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.experts import (
    activation_share,
    count_routing,
    exposure_kept,
    get_method,
    pruned_experts,
    randomly_pruned,
    share_removed,
)
from dsmoe_eval.experts.pruning import kept_experts
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, ModelIdentity

from .conftest import EXPERTS, LAYERS, random_pass

FREQUENCY = get_method("frequency")


@pytest.fixture(scope="module")
def counts():
    with random_pass(4) as (seen, _):
        return count_routing(seen).in_phase("prompt")


@given(st.integers(0, 10**6), st.sampled_from([(6, 3, 1), (6, 4, 2), (8, 4, 4), (8, 2, 2)]))
def test_the_best_are_kept_and_ties_go_to_the_lower_index(seed, shape):
    experts, keep, groups = shape
    scores = np.random.default_rng(seed).integers(0, 4, (3, experts)).astype(float)
    kept = kept_experts(scores, keep, groups)
    size = experts // groups
    for row, chosen in zip(scores, kept.tolist(), strict=True):
        expected = []
        for group in range(groups):
            members = range(group * size, (group + 1) * size)
            expected += sorted(members, key=lambda one: (-row[one], one))[: keep // groups]
        assert chosen == sorted(expected)


def test_all_others_are_removed_with_their_scores(counts):
    scores = FREQUENCY.score(counts, "one")
    removed = pruned_experts(FREQUENCY, counts, "one", 2)
    assert len(removed) == LAYERS * (EXPERTS - 2)
    for row, layer in enumerate(counts.layers):
        gone = {one.expert: one.score for one in removed if one.layer == layer}
        kept = [one for one in range(EXPERTS) if one not in gone]
        assert gone == {one: scores[row, one] for one in gone}
        assert min(scores[row, kept]) >= max(gone.values())
    assert exposure_kept(counts, removed) == pytest.approx(1 - activation_share(counts, removed))
    assert exposure_kept(counts, ()) == 1


def test_random_pruning_keeps_as_many_and_draws_differ(counts):
    drawn = [randomly_pruned(counts, 2, seed=5, draw=draw) for draw in range(1, 9)]
    assert drawn[0] == randomly_pruned(counts, 2, seed=5)
    assert len({tuple((one.layer, one.expert) for one in removed) for removed in drawn}) > 5
    for removed in drawn:
        assert [one.layer for one in removed] == [
            layer for layer in counts.layers for _ in range(EXPERTS - 2)
        ]
    used = counts.total().used / counts.total().tokens
    assert all(one.score == used[counts.layers.index(one.layer), one.expert] for one in drawn[0])


def test_numbers_that_cannot_be_kept_are_refused(counts):
    for keep in (0, EXPERTS, EXPERTS + 1):
        with pytest.raises(ValueError, match=f"{keep} cannot be kept; keep 1 to {EXPERTS - 1}"):
            pruned_experts(FREQUENCY, counts, "one", keep)
    with pytest.raises(ValueError, match="2 groups of 4 experts; keep a multiple of 2, not 3"):
        kept_experts(np.zeros((1, 8)), 3, 2)
    with pytest.raises(ValueError, match=r"random scores no experts; prune at random by \+matched"):
        pruned_experts(get_method("random"), counts, "one", 2)


def test_the_share_removed_counts_only_experts_that_no_token_selects():
    identity = ModelIdentity(name="m", fingerprint="0", routers="0", layers=(1, 3), experts=4)
    profile = trial_profile(identity, Intervention(kind="mask", strength=1.0), [0, 2])
    used = np.array([[0, 1, 0, 1], [0.0, 0.5, 0.0, 1.5]])
    assert share_removed(profile, used) == 0.5
    used[1, 2] = 0.1  # the mask did not act on it
    assert share_removed(profile, used) == 0.375
