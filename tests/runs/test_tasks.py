"""lm-eval's tasks as items with content, and the two ways to score them."""

import pytest

from dsmoe_eval.cards import Splits
from dsmoe_eval.engines import load_model
from dsmoe_eval.engines.transformers import TransformersLM
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.runs.cells import _evaluate
from dsmoe_eval.runs.tasks import _items, as_binary, load_tasks, score_tasks

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
    (item,) = _items(task, None)
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
    with pytest.raises(UserError, match="has no split 'dev'"):
        load_tasks(SUITE, SUITE.tasks[:1], "dev", None)


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
