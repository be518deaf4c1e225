"""Learned profiles in a run on the lab model, with their controls; and permuted answers."""

import json
from dataclasses import replace

import pytest
import yaml
from rich.console import Console

from dsmoe_eval.errors import UserError
from dsmoe_eval.experts import OutcomeItem, ScoredText
from dsmoe_eval.results.finished import read_finished
from dsmoe_eval.results.folder import RunFolder
from dsmoe_eval.runs import learning, run
from dsmoe_eval.runs.learning import shuffled
from dsmoe_eval.steering import Profile

QUIET = Console(quiet=True)
PLAN = {
    "name": "learn", "description": "small", "model": "lab-poly", "suite": "lab",
    "targets": ["math"], "variants": ["base", "learned-profile"], "controls": "full",
    "margin": 0.02, "learned": {
        "steps": 4, "batch_size": 8, "check_every": 2, "weights": [2.0, 50.0], "learning_rate": 0.1
    },
}  # fmt: skip
CONTROLS = ("shuffled", "wrong", "pooled", "sham")
ARMS = ["learned-profile", *(f"learned-profile+{one}" for one in CONTROLS)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "learn.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return str(path)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    """A run that was killed while it learned the second profile, and goes on."""
    root, calls, learn = tmp_path_factory.mktemp("runs") / "a", [], learning.learn_shifts

    def killed(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learn(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "learn_shifts", killed)
        with pytest.raises(KeyboardInterrupt):
            run(plan, root, limit=8, device="cpu", console=QUIET)
        patch.setattr(learning, "_targets", lambda _job: {})
        with pytest.raises(UserError, match="math has no items in the tuning split"):
            run(plan, root, limit=8, device="cpu", console=QUIET)
        patch.undo()
        patch.setattr(learning, "learn_shifts", killed)
        run(plan, root, limit=8, device="cpu", console=QUIET)
    assert len(calls) == 9  # four profiles of two weights, one of them begun twice
    return RunFolder(root)


def test_a_run_learns_once_what_several_arms_use(finished):
    names = {path.name for path in finished.root.glob("learned/*")}
    assert names == {
        "math--method", "math--shuffled_answers", "biology--method", "math--all_domains"
    }  # fmt: skip
    for name in names:
        for path in finished.learned(name).iterdir():
            assert finished.has(path)
            finished.read(path)


def test_each_arm_has_its_profile_and_its_terms(finished):
    arms = {arm.variant: arm for arm in read_finished(finished.root).result.arms}
    assert list(arms) == ARMS
    for arm in arms.values():
        path = finished.profile(arm.variant, arm.target, arm.profile)
        profile = Profile.from_json(finished.read(path))
        assert arm.settings.expert_count == len(profile.experts)
        assert arm.information.parameters == 96
        assert arm.information.settings == 2
        assert arm.settings.weight in arm.settings.weights == (2.0, 50.0)
    own, pooled = arms["learned-profile"], arms["learned-profile+pooled"]
    assert own.settings.best_step > 0
    assert own.settings.outcome_gain > 0
    assert own.information.answers == 16  # eight of the tuning, eight of the identification split
    assert pooled.information.answers == 64
    assert own.over_placebo is not None
    assert own.specificity is not None
    assert own.over_pooled is not None
    assert arms["learned-profile+sham"].equal_to_base


def test_it_gains_on_the_items_that_it_was_learned_from(finished):
    """By the looks at the identification split; nothing of the test split is in them."""
    content = json.loads((finished.learned("math--method") / "history.json").read_text())
    assert [one["weight"] for one in content["tried"]] == [2.0, 50.0]
    for one in content["tried"]:
        looks = one["looks"]
        assert [look["step"] for look in looks] == [0, 2, 4]
        assert looks[-1]["outcome"] > looks[0]["outcome"]


def test_a_changed_file_of_what_was_learned_is_noticed(finished, plan):
    path = finished.learned("math--method") / "history.json"
    before = path.read_text()
    path.write_text(before.replace("0", "1", 1))
    try:
        with pytest.raises(UserError, match=r"history\.json"):
            run(plan, finished.root, limit=8, device="cpu", console=QUIET)
    finally:
        path.write_text(before)


def question(right, options=3):
    texts = tuple(ScoredText((1, 2, 3 + at), 2) for at in range(options))
    return OutcomeItem("law", texts, (right,))


def test_answers_are_permuted_among_items_with_as_many_options():
    items = [question(at % 3) for at in range(9)] + [question(3, 4), question(0, 4)]
    found = shuffled(items, 0)
    assert found == shuffled(items, 0)
    assert found != tuple(items)
    for part in (slice(0, 9), slice(9, 11)):
        assert sorted(one.rights for one in found[part]) == sorted(i.rights for i in items[part])
    assert all(replace(a, rights=b.rights) == b for a, b in zip(found, items, strict=True))


def test_generated_answers_are_permuted_by_their_tokens():
    items = [OutcomeItem("law", (ScoredText((at, 9, 100 + at), 2),)) for at in range(6)]
    found = shuffled(items, 1)
    assert [one.texts[0].tokens[:2] for one in found] == [(at, 9) for at in range(6)]
    assert sorted(one.texts[0].tokens[2] for one in found) == [100 + at for at in range(6)]
    assert found != tuple(items)
