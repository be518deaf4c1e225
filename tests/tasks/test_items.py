"""Items as content: what is the question, and what is the same question."""

import hashlib
import json
from dataclasses import replace

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.tasks.items import Item, bucket_of, check_options, digest, read_items, wording_of

SUITE = load_suite("lab")


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
    (item,) = read_items(task, task.eval_docs, None)
    assert item.stem == stem
    expected = {None: ("So.", "No."), ("prompt",): (item.question,)}
    assert item.choices == expected.get(choices, choices)


def ask(question, frame="{question}", key=None, **columns):
    document = {"question": question, "language": "en", **columns}
    (item,) = read_items(Asked(document, frame), [document], None, key)
    return item


def test_what_asks_the_same_is_one_cluster_and_in_one_share():
    item, other = ask("What is the sign of x?", "In math: {question}"), ask("what is the SIGN of x")
    assert item.id != other.id
    assert item.cluster == other.cluster
    assert bucket_of(item) == bucket_of(other)
    assert ask("What is the sign of y?").cluster != item.cluster
    german = ask("Was ist x?", key="number", number=7)
    assert german.cluster == ask("What is x?", key="number", number=7).cluster
    assert german.cluster != ask("Was ist x?", key="number", number=8).cluster
    assert len({bucket_of(ask(f"{n}?")) for n in range(500)}) > 90


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
        check_options(SUITE.tasks[0], document, item)
    check_options(SUITE.tasks[0], document, replace(item, question="So No Oh", options=("A",) * 3))
    check_options(SUITE.tasks[0], {"question": "Why?"}, item)


def test_letters_that_stand_for_nothing_are_refused():
    document = {"question": "Why?", "options": ["So", "No"]}
    item = Item("a", "Why? A. So B. No", ("A", "B", "C"), "A")
    with pytest.raises(UserError, match=r"has 2 options, of which the prompt shows 3"):
        check_options(SUITE.tasks[0], document, item)


def test_a_question_may_mention_an_option_that_is_scored_by_its_text():
    """One of OpenBookQA's: "animals" stands in the question."""
    document = {"question_stem": "What do animals eat?", "choices": {"text": ["animals", "air"]}}
    item = Item("a", "What do animals eat?", ("animals", "air"), "air")
    check_options(SUITE.tasks[0], document, item)
    numbers = Item("a", "How many are 2 of 4?", (" 1", " 2"), "2")
    check_options(SUITE.tasks[0], {"choices": {"text": ["1", "2"]}}, numbers)


class TwoOptions:
    """Of lm-eval, as far as items are concerned."""

    OUTPUT_TYPE = "multiple_choice"

    def doc_to_text(self, doc):
        return doc["question"]

    def doc_to_target(self, _doc):
        return 1

    def doc_to_choice(self, _doc):
        return ["é", "b"]


def test_other_tools_items_are_named_as_ours():
    (item,) = read_items(TwoOptions(), [{"question": "Why  IS it?"}], None)
    assert digest("Why  IS it?", ["é", "b"], "b") == item.id
    assert wording_of("why is it") == item.cluster
    text = json.dumps(("x",))
    assert digest("x") == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest("\ud800")  # half a character, as JSON may hold
