"""lm-eval's tasks as items with content, and the two ways to score them."""

import random
from dataclasses import replace
from types import SimpleNamespace

import datasets
import pytest

from dsmoe_eval.cards import Splits
from dsmoe_eval.engines import load_model
from dsmoe_eval.engines.transformers import TransformersLM
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.cells import _evaluate
from dsmoe_eval.runs.tasks import (
    Item,
    _check_options,
    _items,
    _shuffled_by_content,
    as_binary,
    load_tasks,
    score_tasks,
    share_of,
    without,
)

SUITE = load_suite("lab")


@pytest.fixture(scope="module")
def test_split():
    return load_tasks(SUITE, SUITE.tasks, "test", 30)


def test_items_are_named_by_question_options_and_gold(test_split):
    named, unnamed = test_split["lab_law_named"], test_split["lab_math_unnamed"]
    assert len(named.items) == 30
    assert len({item.id for item in named.items}) == 30
    for item in (*named.items, *unnamed.items):
        assert item.gold in item.options
        assert "~" not in item.id
    assert named.items[0].question.startswith("In law, what is the ")
    assert test_split["lab_arithmetic"].items[0].options == ()


def test_the_same_question_with_another_gold_is_another_item(test_split):
    one = {item.question: item.id for item in test_split["lab_math_unnamed"].items}
    two = {item.question: item.id for item in test_split["lab_physics_unnamed"].items}
    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


def test_the_lean_path_scores_as_lm_eval_does(test_split):
    lm = TransformersLM(load_model("lab-poly", "cpu"), 2048)
    lean = score_tasks(lm, list(test_split.values()))
    for name, task in test_split.items():
        samples = _evaluate(lm, task)
        assert [s[task.card.metric] for s in samples] == lean[name].tolist()
    again = score_tasks(lm, list(test_split.values()))
    assert all((again[name] == lean[name]).all() for name in lean)


def test_an_item_knows_its_question_and_options_without_the_frame(test_split):
    named = test_split["lab_law_named"].items[0]
    assert named.stem == named.question
    assert named.choices == named.options
    assert test_split["lab_arithmetic"].items[0].choices == ()


class Asked:
    """A task whose prompt frames a document, as lm-eval's own tasks do."""

    def __init__(self, document, prompt, options=None, target=0):
        self.eval_docs, self.prompt, self.options, self.target = [document], prompt, options, target
        self.OUTPUT_TYPE = "multiple_choice" if options else "generate_until"

    def doc_to_text(self, document):
        return self.prompt.format(**document)

    def doc_to_choice(self, _document):
        return self.options

    def doc_to_target(self, _document):
        return self.target


@pytest.mark.parametrize(
    ("task", "stem", "choices"),
    [
        # MMLU: letters are scored, the texts stand in a column
        (
            Asked(
                {"question": "Why?", "choices": ["So.", "No."]}, "{question}\nA. So.", ["A", "B"]
            ),
            "Why?",
            ("So.", "No."),
        ),
        # ARC and OpenBookQA
        (
            Asked(
                {"question_stem": "Why", "choices": {"text": ["So."], "label": ["A"]}},
                "Q: {question_stem} A. So.",
                ["A"],
            ),
            "Why",
            ("So.",),
        ),
        # MMLU-Pro: generated
        (Asked({"question": "Why?", "options": ["So.", "No."]}, "{question} A. So."), "Why?", None),
        # AIME 2024
        (Asked({"Problem": "Find x."}, "Question: {Problem}\nAnswer:"), "Find x.", ()),
        # BoolQ, RACE, SciQ: the passage is part of what is asked
        (
            Asked({"passage": "Ice.", "question": "cold"}, "{passage}\n{question}?", ["no", "yes"]),
            "Ice. cold",
            ("no", "yes"),
        ),
        # a column that the prompt does not quote is not what is asked
        (Asked({"text": "all of it", "word": "it"}, "all of"), "", ()),
        # GPQA: nobody but the prompt knows what the letters mean
        (Asked({"Question": "Why?"}, "{Question} (A) So.", ["(A)", "(B)"]), "Why?", ("prompt",)),
    ],
)
def test_columns_tell_the_question_and_the_options_from_the_frame(task, stem, choices):
    (item,) = _items(task, task.eval_docs, None)
    assert item.stem == stem
    expected = {None: ("So.", "No."), ("prompt",): (item.question,)}
    assert item.choices == expected.get(choices, choices)


def test_ids_are_those_of_the_content_alone(test_split):
    """Results are keyed by them, so what is added to items must not change them."""
    assert test_split["lab_law_named"].items[0].id == "d98d5baad664800b"
    assert test_split["lab_arithmetic"].items[0].id == "9b52b4b65925d62b"


def test_what_lm_eval_does_not_know_is_refused():
    task = SUITE.tasks[0].model_copy(update={"name": "lab_alchemy"})
    with pytest.raises(UserError, match="lm-eval has no task lab_alchemy"):
        load_tasks(SUITE, [task], "test", None)
    task = SUITE.tasks[0].model_copy(update={"splits": Splits(test="dev")})
    with pytest.raises(UserError, match="has no split 'dev'"):
        load_tasks(SUITE, [task], "test", None)


def test_a_metric_that_is_not_binary_is_refused():
    assert as_binary([1.0, 0.0, True], SUITE.tasks[0]).tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="is not 0 or 1"):
        as_binary([0.5], SUITE.tasks[0])


def test_answers_join_prompt_and_gold_as_the_task_does(test_split):
    prompt, answer = test_split["lab_math_unnamed"].answers()[0]
    item = test_split["lab_math_unnamed"].items[0]
    assert prompt + answer == f"{item.question} {item.gold}"


def test_splits_are_declared():
    assert Splits(identification="identification", tuning="tuning", test="test") == SUITE.splits


def test_shares_of_a_split_are_disjoint_whole_and_by_question():
    task, parts = SUITE.tasks[0], []
    for share in ("test[0:10]", "test[10:25]", "test[25:100]"):
        card = task.model_copy(update={"splits": Splits(test=share)})
        parts.append(load_tasks(SUITE, [card], "test", None)[task.name])
    whole = load_tasks(SUITE, [task], "test", None)[task.name]
    found = [item.id for part in parts for item in part.items]
    assert sorted(found) == sorted(item.id for item in whole.items)
    assert len(parts[0].items) < len(parts[1].items) < len(parts[2].items)
    for part in parts:
        assert len(part.task.instances) == sum(len(item.options) for item in part.items)
    few = load_tasks(SUITE, [card], "test", 3)[task.name]
    assert few.items == parts[2].items[:3]


def test_what_asks_the_same_is_in_one_share():
    item = Item("a", "In math, what is the sign of x?", (), "y", stem="What is the sign of x?")
    other = replace(item, id="b", stem="what is the SIGN of x")
    assert share_of(item) == share_of(other)
    assert share_of(item, 7) == share_of(replace(other, stem="Was ist x?"), 7)
    assert len({share_of(replace(item, stem=f"{n}?")) for n in range(500)}) > 90


def test_a_task_without_items_of_its_own_for_a_part_is_left_out():
    task = SUITE.tasks[0].model_copy(update={"splits": Splits(test="test")})
    assert load_tasks(SUITE, [task], "tuning", 3) == {}


def test_items_are_left_out_by_id():
    task = load_tasks(SUITE, SUITE.tasks[:1], "test", 5)[SUITE.tasks[0].name]
    second = task.items[1].id
    left = without(task, {second})
    assert [item.id for item in left.items] == [i.id for i in task.items if i.id != second]
    assert len(left.task.instances) == sum(len(item.options) for item in left.items)
    with pytest.raises(UserError, match="no item is left"):
        without(left, {item.id for item in left.items})


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


@pytest.mark.parametrize(
    ("document", "prompt", "options"),
    [
        # MMLU-Pro's prompt stops at J and leaves the rest out.
        ({"question": "Why?", "options": ["So", "No", "Oh"]}, "Why? A. So B. No", ()),
        ({"question": "Why?", "options": ["So", "No", "Oh"]}, "Why?", ("A", "B")),
    ],
)
def test_more_options_than_letters_are_refused(document, prompt, options):
    item = Item("a", prompt, options, "A")
    with pytest.raises(UserError, match=r"has 3 options, of which the prompt shows 2"):
        _check_options(SUITE.tasks[0], document, item)
    _check_options(SUITE.tasks[0], document, replace(item, question="So No Oh", options=("A",) * 3))
    _check_options(SUITE.tasks[0], {"question": "Why?"}, item)


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
