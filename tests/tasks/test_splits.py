"""The parts of a suite: what is in each, and that shares of one split repeat nothing."""

import yaml

from dsmoe_eval.registry import find_card, load_suite
from dsmoe_eval.tasks.leakage import find_leakage
from dsmoe_eval.tasks.splits import load_splits, plan_leakage


def test_each_part_has_its_tasks_and_the_limit_holds_for_each():
    suite = load_suite("lab")
    parts = load_splits(suite, 3)
    assert list(parts) == ["identification", "tuning", "test"]
    assert set(parts["identification"]) == {task.name for task in suite.identification_tasks}
    assert set(parts["tuning"]) == set(parts["test"]) == {task.name for task in suite.tasks}
    assert {len(task.items) for part in parts.values() for task in part.values()} == {3}


def test_shares_of_one_split_give_no_item_twice(tmp_path):
    content = yaml.safe_load(find_card("suites", "lab").read_text())
    content["tasks"] = [task for task in content["tasks"] if task["name"] == "lab_arithmetic"]
    content["splits"] = {
        "identification": {"split": "test", "buckets": [0, 30]},
        "tuning": {"split": "test", "buckets": [30, 60]},
        "test": {"split": "test", "buckets": [60, 100]},
    }  # fmt: skip
    content["tasks_dir"] = str(load_suite("lab").tasks_dir)
    (tmp_path / "shares.yaml").write_text(yaml.safe_dump(content))
    parts = load_splits(load_suite(str(tmp_path / "shares.yaml")), None)
    assert not find_leakage(parts).overlaps
    items = [item.id for part in ("tuning", "test") for item in parts[part]["lab_arithmetic"].items]
    assert len(items) == len(set(items)) > 60


def test_a_plans_leakage_is_that_of_its_suite(one_split_plan):
    found = plan_leakage(one_split_plan())
    assert {(row.split, row.other_split) for row in found.overlaps} >= {("test", "tuning")}
