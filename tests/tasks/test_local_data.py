"""Data from a local folder: hub snapshots, and files as their authors published them."""

import json

import pandas as pd
import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.tasks.loading import load_tasks
from dsmoe_eval.tasks.local_data import local_data, local_dataset
from dsmoe_eval.tasks.opening import UnreadableTaskError

from ..conftest import FEW_ROWS
from .made_up import write_aime, write_snapshots

PARTS = ("identification", "tuning", "test")


def test_a_snapshot_is_read_as_the_hub_would_be(tmp_path):
    folder = tmp_path / "someone" / "words" / "data"
    folder.mkdir(parents=True)
    pd.DataFrame({"question": ["a", "b"]}).to_parquet(folder / "test-00000-of-00001.parquet")
    assert local_dataset([tmp_path], "someone/words", None)["test"]["question"][:] == ["a", "b"]


def test_several_folders_are_gone_through(tmp_path):
    (tmp_path / "two" / "math500").mkdir(parents=True)
    row = {"problem": "1+1", "solution": "", "answer": "2"}
    (tmp_path / "two" / "math500" / "math500_test.jsonl").write_text(json.dumps(row))
    folders = [tmp_path / "one", tmp_path / "two"]
    assert len(local_dataset(folders, "HuggingFaceH4/MATH-500", None)["test"]) == 1


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UnreadableTaskError, match=r"no data set 'a/b'; put its snapshot .*/a/b"):
        local_dataset([tmp_path], "a/b", None)
    with pytest.raises(UnreadableTaskError, match=r"'TIGER-Lab/MMLU-Pro': no .*test.parquet"):
        local_dataset([tmp_path], "TIGER-Lab/MMLU-Pro", None)
    with pytest.raises(UserError, match="no such folder"), local_data([tmp_path / "no"]):
        pass


def test_aime_in_its_layout(tmp_path):
    """Made-up rows: the contests' texts may not be passed on."""
    write_aime(tmp_path)
    old = local_dataset([tmp_path], "Maxwell-Jia/AIME_2024", None)["train"]
    new = local_dataset([tmp_path], "math-ai/aime25", None)["test"]
    assert old[3] == {"ID": "2024-3", "Problem": "Add 3 and 4.", "Answer": "7"}
    assert new[3] == {"id": "2025-3", "problem": "Add 3 and 4.", "answer": "7"}


def test_lines_end_at_newlines_only(tmp_path):
    (tmp_path / "math500").mkdir()
    row = {"problem": "one\u2028two", "solution": "", "answer": "3"}
    (tmp_path / "math500" / "math500_test.jsonl").write_text(
        json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    data = local_dataset([tmp_path], "HuggingFaceH4/MATH-500", None)
    assert data["test"]["problem"][:] == ["one\u2028two"]


@pytest.mark.parametrize(
    ("folder", "path", "name", "sizes"),
    [
        ("mmlu_pro", "TIGER-Lab/MMLU-Pro", None, {"test": 12032, "validation": 70}),
        ("mmlu", "cais/mmlu", "abstract_algebra", {"dev": 5, "validation": 11, "test": 100}),
        ("aime", "Maxwell-Jia/AIME_2024", None, {"train": 30}),
        ("aime", "math-ai/aime25", None, {"test": 30}),
        ("math500", "HuggingFaceH4/MATH-500", None, {"test": 500}),
        ("mcqa", "allenai/ai2_arc", "ARC-Challenge", {"train": 0, "validation": 0, "test": 1172}),
        ("mcqa", "allenai/openbookqa", "main", {"train": 0, "validation": 0, "test": 500}),
    ],
)
def test_published_files_are_whole(real_data, folder, path, name, sizes):
    data = local_dataset([real_data(folder)], path, name)
    assert {split: len(rows) for split, rows in data.items()} == sizes


@pytest.mark.parametrize(
    ("path", "name", "sizes", "last"),
    [
        ("TIGER-Lab/MMLU-Pro", None, {"test": 26, "validation": 5},
         {"question_id": 11177, "answer": "H", "answer_index": 7, "category": "philosophy"}),
        ("cais/mmlu", "abstract_algebra", {"dev": 5, "validation": 2, "test": 7},
         {"question": "The element (4, 2) of Z_12 x Z_8 has order",
          "choices": ["4", "8", "12", "6"], "answer": 2}),
        ("HuggingFaceH4/MATH-500", None, {"test": 7},
         {"problem": r"Compute $\dbinom{31}{28}$.", "answer": "4495"}),
        ("allenai/ai2_arc", "ARC-Challenge", {"train": 0, "validation": 0, "test": 7},
         {"question": "Zinc is a mineral that helps", "answerKey": "C"}),
        ("allenai/openbookqa", "main", {"train": 0, "validation": 0, "test": 8},
         {"question_stem": "Carnivores", "answerKey": "C"}),
    ],
)  # fmt: skip
def test_a_few_published_rows_are_read_in_their_authors_layout(path, name, sizes, last):
    data = local_dataset([FEW_ROWS], path, name)
    assert {split: len(rows) for split, rows in data.items()} == sizes
    row = data["test"][-1]
    assert {key: row[key] for key in last} == last


@pytest.mark.slow
def test_the_paper_s_questions_come_with_their_prompts(real_data):
    data = real_data("mmlu_pro", "mmlu", "aime", "math500", "mcqa")
    suite = load_suite("paper")
    cards = [task for task in suite.tasks if not task.gated]
    parts = {
        p: load_tasks(suite, cards, p, 8, [data]) for p in ("identification", "tuning", "test")
    }
    assert set(parts["test"]) == {task.name for task in cards}
    assert set(parts["tuning"]) == {f"mmlu_pro_{d}" for d in suite.targets}
    for name in parts["tuning"]:
        ids = [{item.id for item in part[name].items} for part in parts.values() if name in part]
        assert len(set.union(*ids)) == sum(map(len, ids)) == 24
    prompt = parts["test"]["mmlu_pro_math"].requests[0].args[0]
    assert prompt.count("Answer: Let's think step by step.") == 6  # five examples and the question
    aime = parts["test"]["aime25"].items[0]
    assert aime.gold == "70"
    assert aime.stem.startswith("Find the sum of all integer bases")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retention", "medicine", "multilingual"])
def test_what_nobody_here_has_loads_in_its_published_columns(name, tmp_path):
    """Made-up rows: every task of these suites whose data were never seen, in every part."""
    data = [write_snapshots(tmp_path)]
    suite = load_suite(name)
    cards = [card for card in suite.tasks if (tmp_path / card.data).is_dir()]
    assert len(cards) >= 3
    parts = {part: load_tasks(suite, cards, part, None, data) for part in PARTS}
    assert set(parts["test"]) == {
        card.name for card in cards if set(card.roles) != {"identification"}
    }
    for tasks in parts.values():
        for task in tasks.values():
            assert task.items
            assert len({item.id for item in task.items}) == len(task.items)
            assert all(item.stem and item.stem != item.question for item in task.items) or (
                task.card.name in {"ifeval", "hellaswag"}  # all of the prompt is the question
            )
