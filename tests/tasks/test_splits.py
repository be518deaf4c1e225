"""The parts of a suite: what is in each, and that shares of one split repeat nothing."""

import json
import shutil

import pytest
import yaml

from dsmoe_eval.cards import Splits
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import find_card, load_suite
from dsmoe_eval.tasks.leakage import find_leakage
from dsmoe_eval.tasks.splits import load_splits


def test_each_part_has_its_tasks_and_the_limit_holds_for_each():
    suite = load_suite("lab")
    parts = load_splits(suite, 3)
    assert list(parts) == ["identification", "tuning", "test"]
    assert set(parts["identification"]) == {task.name for task in suite.identification_tasks}
    assert set(parts["tuning"]) == set(parts["test"]) == {task.name for task in suite.tasks}
    assert {len(task.items) for part in parts.values() for task in part.values()} == {3}


def test_shares_of_one_split_give_no_item_twice(tmp_path):
    content = yaml.safe_load(find_card("suites", "lab").read_text())
    content["tasks"] = [t for t in content["tasks"] if t["domain"] in ("math", "arithmetic")]
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


def write_suite(folder, *text, **splits):
    """Write a suite of the lab's arithmetic and mathematics and of own text, as lm-eval has it."""
    content = yaml.safe_load(find_card("suites", "lab").read_text())
    lab = load_suite("lab").tasks_dir
    content["tasks"] = [t for t in content["tasks"] if t["domain"] in ("math", "arithmetic")]
    for task in content["tasks"]:
        shutil.copy(lab / f"{task['name'].removeprefix('lab_')}.yaml", folder)
    for name in ("data", "data.py", "_choice.yaml"):
        copy = shutil.copytree if (lab / name).is_dir() else shutil.copy
        copy(lab / name, folder / name)
    (folder / "text.yaml").write_text("\n".join(["task: text", "dataset_path: json", *text]))
    rows = [{"text": f"Note {n} of the archive is about mills."} for n in range(9)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content["tasks"].append({"name": "text", "domain": "mills", "roles": ["identification"]})
    content["tasks"][-1]["splits"] = {"identification": "train", **splits}
    (folder / "suite.yaml").write_text(yaml.safe_dump(content | {"tasks_dir": "."}))
    return load_suite(str(folder / "suite.yaml"))


FORMS = (
    ["doc_to_text: text"],
    ["doc_to_text: ''", "doc_to_target: text", "output_type: loglikelihood_rolling"],
)


@pytest.mark.parametrize("form", FORMS)
def test_case_20_own_text_needs_no_prompt_and_no_answer(tmp_path, form):
    files = f"dataset_kwargs: {{data_files: {{train: {tmp_path / 'rows.jsonl'}}}}}"
    parts = load_splits(write_suite(tmp_path, files, *form), 5)
    items = parts["identification"]["text"].items
    assert [one.question for one in items] == [
        f"Note {n} of the archive is about mills." for n in range(5)
    ]
    assert len({one.cluster for one in items}) == 5
    assert "text" not in parts["tuning"] | parts["test"]


def test_case_20_text_without_a_column_is_refused_by_name(tmp_path):
    files = f"dataset_kwargs: {{data_files: {{train: {tmp_path / 'rows.jsonl'}}}}}"
    with pytest.raises(UserError, match="task 'text': its lm-eval YAML file lacks doc_to_text"):
        load_splits(write_suite(tmp_path, files), 5)


def test_case_20_splits_that_nothing_uses_do_not_enter_the_leakage_check(tmp_path):
    # Of another domain's target, of a target's identification split, and of text's test split.
    files = f"dataset_kwargs: {{data_files: {{train: {tmp_path / 'rows.jsonl'}}}}}"
    suite = write_suite(tmp_path, files, *FORMS[0], tuning="train", test="train")
    same = {"identification": "test", "tuning": "tuning", "test": "test"}
    tasks = [
        task.model_copy(update={"splits": Splits.model_validate(same)})
        if task.name == "lab_math_unnamed" else task for task in suite.tasks
    ]  # fmt: skip
    parts = load_splits(suite.model_copy(update={"tasks": tuple(tasks)}), None)
    assert set(parts["identification"]) == {"lab_math_named", "lab_arithmetic", "text"}
    assert set(parts["test"]) == {"lab_math_unnamed", "lab_arithmetic"}
    assert not find_leakage(parts).overlaps
