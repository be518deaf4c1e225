"""lm-eval's tasks, made from their files: what is missing is said, and nothing is drawn anew."""

import random
from types import SimpleNamespace

import datasets
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.opening import _shuffled_by_content

SUITE = load_suite("lab")


def test_a_task_whose_package_is_not_there_says_which(tmp_path):
    (tmp_path / "needy.yaml").write_text(
        "task: needy\ndataset_path: a/b\ndoc_to_text: !function needy.text\n"
    )
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    suite = SUITE.model_copy(update={"tasks_dir": tmp_path})
    card = SUITE.tasks[0].model_copy(update={"name": "needy"})
    with pytest.raises(UserError, match=r"'needy' cannot be loaded: .*a_package_that_is_not"):
        load_tasks(suite, [card], "test", None)


def test_gated_data_tell_the_way(monkeypatch):
    from lm_eval.api.task import ConfigurableTask

    def refuse(*_args, **_kwargs):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset.\nMore.")

    monkeypatch.setattr(ConfigurableTask, "download", refuse)
    card = SUITE.tasks[0].model_copy(update={"gated": True, "data": "a/b"})
    with pytest.raises(UserError, match=r"gated.*accept the terms at .*/datasets/a/b and set HF_"):
        load_tasks(SUITE, [card], "test", None)
    with pytest.raises(UserError, match=r"cannot be read .*check the network"):
        load_tasks(SUITE, SUITE.tasks[:1], "test", None)


def test_options_are_shuffled_by_content(tmp_path):
    """As GPQA does it: by Python's global generator, whatever ran before."""
    rows = [{"q": f"question {n}", "right": "r", "wrong": list("abc")} for n in range(8)]
    data = datasets.Dataset.from_list(rows)

    def prepare(part):
        def one(row):
            options = [row["right"], *row["wrong"]]
            random.shuffle(options)
            return {"options": options}

        return part.map(one)

    def orders(numbers, seed):
        random.seed(seed)
        config = SimpleNamespace(test_split="test", process_docs=prepare)
        task = SimpleNamespace(dataset={"test": data.select(numbers)}, config=config)
        state = random.getstate()
        found = {row["q"]: row["options"] for row in _shuffled_by_content(task)}
        assert random.getstate() == state
        return found

    first = orders(range(8), 1)
    assert orders(range(8), 2) == first
    assert orders([5, 3], 3) == {q: first[q] for q in ("question 5", "question 3")}
    assert len({tuple(order) for order in first.values()}) > 3
