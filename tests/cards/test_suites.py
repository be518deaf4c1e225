"""Suites are consistent, and the built-in ones ask for what the installed lm-eval has."""

import ast
import importlib.util
import shlex
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from pydantic import ValidationError

from dsmoe_eval.cards import Split, Splits, Suite
from dsmoe_eval.registry import builtin_names, load_suite

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


def test_the_lab_suite_is_what_the_readme_says():
    card = load_suite("lab")
    assert card.targets == ("math", "biology", "physics", "chemistry")
    for target in card.targets:
        others = {task.domain for task in card.non_target_tasks(target)}
        assert others == {*card.identification_domains} - {target}
        assert "arithmetic" in others


def test_a_task_may_have_its_own_splits_and_spare_none_for_tuning():
    card = suite(
        task("a", "a", "target", "identification"),
        task("b", "b", "non-target", "identification"),
        task("c", "c", "non-target")
        | {"splits": {"test": {"split": "train", "buckets": [25, 100]}}},
    )
    tuning = [card.stage_split(task, "tuning") for task in card.tasks]
    assert tuning == [Split(split="b"), Split(split="b"), None]
    test = card.stage_split(card.tasks[2], "test")
    assert (str(test), test.share) == ("train (buckets 25 to 99)", 0.75)
    with pytest.raises(ValidationError, match="no non-target task has a tuning split"):
        suite(
            task("a", "a", "target", "identification"),
            task("b", "b", "non-target") | {"splits": {"test": "test"}},
        )
    with pytest.raises(ValidationError, match="pattern"):
        Splits(test="te st")
    with pytest.raises(ValidationError, match=r"now written \{split: t, buckets: \[0, 10\]\}"):
        Splits(test="t[0:10]")
    for buckets in ((0, 101), (5, 5), (-1, 5), (5,)):
        with pytest.raises(ValidationError, match="buckets"):
            Splits(test={"split": "t", "buckets": buckets})


def test_only_shares_of_one_split_are_ours_to_draw():
    names = ("identification", "tuning", "test")
    buckets = ((0, 1), (1, 2), (2, 100))
    shares = {n: {"split": "t", "buckets": b} for n, b in zip(names, buckets, strict=True)}
    card = suite(
        task("a", "a", "target", "identification") | {"splits": shares},
        task("b", "b", "non-target", "identification"),
        task("c", "c", "non-target") | {"splits": {"test": "t"}},
    )
    assert [card.is_shared(name) for name in "abc"] == [True, False, False]


SUITES = [name for name in builtin_names("suites") if load_suite(name).tasks_dir is None]
"""Those without task files of ours."""


@pytest.fixture(scope="module")
def index():
    return TaskManager().task_index


@pytest.mark.slow  # lm-eval reads 14,000 files to know its tasks
@pytest.mark.parametrize("name", SUITES)
def test_tasks_are_lm_eval_s_own(index, name):
    suite = load_suite(name)
    for card in suite.tasks:
        assert card.name in index, card.name
        config = load_yaml(index[card.name].yaml_path, resolve_func=False)
        assert card.data == config["dataset_path"]
        filters = [one["name"] for one in config.get("filter_list", ())]
        assert card.filter in filters if filters else card.filter is None
        if not isinstance(config.get("process_results"), str):
            assert card.metric in [one["metric"] for one in config["metric_list"]]
        assert card.licence
        known = {config.get(f"{part}_split") for part in ("training", "validation", "test")}
        for part in ("identification", "tuning", "test"):
            split = suite.stage_split(card, part)
            assert split is None or split.split in known, (card.name, split)


def test_the_paper_s_suite_is_the_paper_s():
    suite = load_suite("paper")
    assert suite.targets == ("math", "biology", "physics", "chemistry")
    asked = {task.name for task in suite.non_target_tasks("math")}
    assert asked >= {"gpqa_diamond_cot_zeroshot", "aime24", "aime25"}


def test_mmlu_pro_is_whole():
    suite = load_suite("mmlu-pro")
    assert len(suite.targets) == 14
    assert sum(task.items for task in suite.tasks) == 12032


def _inspect_tasks():
    """Inspect's own tasks -> their parameters, read from the files: importing all takes long."""
    root = Path(importlib.util.find_spec("inspect_evals").origin).parent
    found = {}
    for node in ast.walk(ast.parse((root / "_registry.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= dict.fromkeys((alias.name for alias in node.names), node.module)
    return root, found


def _parameters(root, module, name):
    folder = root.joinpath(*module.split(".")[1:])
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return {argument.arg for argument in node.args.args}
    raise AssertionError(f"{module}.{name} is nowhere")


@pytest.mark.parametrize("name", builtin_names("suites"))
def test_inspect_has_the_tasks_that_suites_name(name):
    root, there = _inspect_tasks()
    for one in load_suite(name).tasks:
        if one.inspect is None:
            continue
        task, *options = shlex.split(one.inspect)
        package, _, function = task.partition("/")
        assert package == "inspect_evals"
        assert function in there, one.inspect
        given = {option.partition("=")[0] for option in options if option != "-T"}
        assert given <= _parameters(root, there[function], function), one.inspect


def test_the_paper_s_tasks_are_all_inspect_s_too():
    assert all(task.inspect for task in load_suite("paper").tasks)


def test_case_20_a_task_for_identification_alone_needs_neither_metric_nor_test_split():
    text = {"name": "text", "domain": "a", "roles": ["identification"]}
    card = Suite.model_validate({
        "name": "s", "description": "", "splits": {"identification": "train"}, "tasks": [text]
    })  # fmt: skip
    stages = ("identification", "tuning", "test")
    assert [card.stage_split(card.tasks[0], stage) for stage in stages] == [
        Split(split="train"), None, None
    ]  # fmt: skip
    with pytest.raises(ValidationError, match="'text': a target or non-target task needs a metric"):
        suite(text | {"roles": ["non-target", "identification"]})
    with pytest.raises(ValidationError, match="'a' has no test split"):
        suite(task("a", "a", "non-target") | {"splits": {"tuning": "b"}})


def test_case_20_a_split_that_no_role_uses_is_not_taken():
    card = suite(
        task("a", "a", "target"),
        task("b", "a", "identification"),
        task("c", "c", "non-target", "identification"),
    )
    taken = {
        one.name: [s for s in SPLITS if card.stage_split(one, s) is not None] for one in card.tasks
    }
    assert taken == {"a": ["tuning", "test"], "b": ["identification"], "c": list(SPLITS)}
    assert [one.name for one in card.answered_tasks(["a"])] == ["a", "c"]


def test_case_20_all_that_a_suite_lacks_is_said_at_once():
    with pytest.raises(ValidationError) as refused:
        suite(
            task("a", "a", "target") | {"splits": {"identification": "x"}},
            task("a", "b", "target") | {"splits": {}},
            task("c", "b", "identification") | {"splits": {"test": "x"}},
        )
    for words in (
        "a task is listed twice", "'a' has no test split", "'c' has no identification split",
        "'a' has no identification task", "'a' has no tuning split", "'b' has no tuning split",
        "'a' has no non-target task", "'b' has no non-target task",
    ):  # fmt: skip
        assert words in str(refused.value)
