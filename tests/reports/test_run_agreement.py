"""The part of a report on the experts that two arms have in common."""

from itertools import combinations, product

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.reports.run_agreement import agreement_table, agreements
from dsmoe_eval.results import RunFolder
from dsmoe_eval.runs.overlaps import shared_experts
from dsmoe_eval.steering import ChosenExpert, Profile

from .made import shown


def chosen(*pairs):
    return tuple(ChosenExpert(layer=layer, expert=expert, score=1) for layer, expert in pairs)


def with_experts(profile, *pairs):
    return profile.model_copy(update={"experts": chosen(*pairs)})


@pytest.fixture
def two_arms(folder, result, tmp_path):
    """A folder and a result in which contrast and dsmoe steer experts on math."""
    arm = next(one for one in result.arms if (one.variant, one.target) == ("contrast", "math"))
    seen = Profile.load(folder.profile(arm.variant, arm.target, arm.profile))
    copy, arms = RunFolder(tmp_path / "run"), []
    for variant, pairs in (("contrast", [(0, 1), (0, 2), (1, 3)]), ("dsmoe", [(0, 1), (1, 4)])):
        profile = with_experts(seen, *pairs)
        copy.write(copy.profile(variant, "math", profile.id), profile.to_json().encode())
        arms.append(arm.model_copy(update={"variant": variant, "profile": profile.id}))
    return copy, result.model_copy(update={"arms": tuple(arms)})


def test_two_arms_are_compared_target_by_target(two_arms):
    (found,) = agreements(*two_arms)
    assert (found.target, found.variants) == ("math", ("contrast", "dsmoe"))
    assert (found.experts, found.overlap) == ((3, 2), 1 / 4)
    (row,) = shown(agreement_table([found]))
    assert row[:4] == ("math", "contrast and dsmoe", "3 and 2", "0.25")


def test_a_profile_that_was_changed_is_noticed(two_arms):
    run, changed = two_arms
    (path, *_) = sorted((run.root / "profiles").iterdir())
    path.write_text(path.read_text().replace('"score": 1', '"score": 2'))
    with pytest.raises(UserError, match="changed after the run wrote it"):
        agreements(run, changed)


def test_one_arm_and_controls_have_nothing_to_agree_on(folder, result):
    assert agreements(folder, result) == []  # contrast, its sham and its random experts


def test_the_overlap_by_chance_is_that_of_all_blind_choices():
    """By brute force: two and one experts of four in two layers, against one and one."""
    a, b = chosen((0, 0), (0, 1), (1, 2)), chosen((0, 3), (1, 0))
    overlaps = []
    for two, one, left, right in product(combinations(range(4), 2), range(4), range(4), range(4)):
        first = {(0, two[0]), (0, two[1]), (1, left)}
        second = {(0, one), (1, right)}
        overlaps.append(len(first & second) / len(first | second))
    expected = sum(overlaps) / len(overlaps)
    assert shared_experts(a, b, 4)[1] == pytest.approx(expected)
