"""Declarations: frozen, strict, and consistent."""

import pytest
from pydantic import ValidationError

from dsmoe_eval.cards import Plan, Suite
from dsmoe_eval.registry import load_plan, load_suite

SPLITS = {"identification": "a", "tuning": "b", "test": "c"}


def task(name, domain, *roles):
    return {"name": name, "domain": domain, "roles": list(roles), "metric": "acc"}


def suite(*tasks):
    return Suite.model_validate(
        {"name": "s", "description": "", "splits": SPLITS, "tasks": list(tasks)}
    )


def test_an_arm_answers_its_target_and_every_other_domains_non_targets():
    card = suite(
        task("a1", "a", "target"),
        task("a2", "a", "non-target", "identification"),
        task("b1", "b", "target", "non-target", "identification"),
        task("c1", "c", "non-target"),
    )
    assert card.targets == ("a", "b")
    assert [t.name for t in card.tasks_for("a")] == ["a1", "b1", "c1"]
    assert [t.name for t in card.tasks_for("b")] == ["b1", "a2", "c1"]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([task("a", "a", "target")], "no identification task"),
        ([task("a", "a", "target", "identification")], "no non-target task"),
        ([task("a", "a", "non-target"), task("a", "b", "non-target")], "listed twice"),
        ([task("a", "a", "target"), task("b", "a", "target")], "two target tasks"),
        ([task("a", "a", "goal")], "target"),
        ([], "at least 1"),
    ],
)
def test_a_suite_that_cannot_be_run_is_refused(tasks, words):
    with pytest.raises(ValidationError, match=words):
        suite(*tasks)


def test_unknown_keys_and_changes_are_refused():
    plan, _ = load_plan("lab")
    with pytest.raises(ValidationError, match="Extra inputs"):
        Plan.model_validate(plan.model_dump() | {"surprise": 1})
    with pytest.raises(ValidationError, match="frozen"):
        plan.margin = 0.5


def test_the_lab_suite_is_what_the_readme_says():
    card = load_suite("lab")
    assert card.targets == ("math", "biology", "physics", "chemistry")
    for target in card.targets:
        others = {task.domain for task in card.non_target_tasks(target)}
        assert others == {*card.identification_domains} - {target}
        assert "arithmetic" in others


def test_overlapping_splits_are_asked_for_by_name():
    plan, _ = load_plan("lab")
    assert plan.overlap is None
    assert Plan.model_validate(plan.model_dump() | {"overlap": "paper"}).overlap == "paper"
    with pytest.raises(ValidationError, match="'paper'"):
        Plan.model_validate(plan.model_dump() | {"overlap": True})
