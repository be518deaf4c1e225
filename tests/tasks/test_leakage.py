"""Seeded duplicates of every kind are found and named, and what only looks like one is let pass."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from dsmoe_eval.cards import DocumentFile
from dsmoe_eval.errors import UserError
from dsmoe_eval.registry import load_suite
from dsmoe_eval.tasks.identification import text_tasks
from dsmoe_eval.tasks.leakage import check_leakage, find_leakage
from dsmoe_eval.tasks.loading import Item, LoadedTask
from dsmoe_eval.tasks.splits import load_splits
from dsmoe_eval.tasks.texts import TextDocument

PASSAGE = (
    "This question refers to the following information. The struggle against neo-colonialism is "
    "not aimed at excluding the capital of the developed world from operating in less developed "
    "countries. It is aimed at preventing the financial power of the developed countries being "
    "used in such a way as to impoverish the less developed. Non-alignment, as practised by Ghana "
    "and many other countries, is based on co-operation with all states, whether they be "
    "capitalist, socialist or of a mixed economy."
)


def item(name, question, choices=(), *, options=None, stem=""):
    """An item as lm-eval gives it; options are its choices, unless lm-eval asks for letters."""
    options = tuple(choices) if options is None else options
    return Item(name, question, options, "", stem, tuple(choices))


def split(*items, task="t"):
    return {task: LoadedTask(None, None, items)}


def overlaps(one, other):
    """(rule, item of the later split, item of the earlier split)"""
    found = find_leakage({"tuning": split(*one), "test": split(*other)}).overlaps
    return [(overlap.rule, overlap.item, overlap.other_item) for overlap in found]


def test_the_same_content_whatever_its_copy_is_called():
    assert overlaps([item("x", "?"), item("f1", "Who?")], [item("f1~2", "Who?")]) == [
        ("content", "f1~2", "f1")
    ]


def test_the_same_text_in_another_spelling_with_its_options_in_another_order():
    one = item("a", "Question: Which gas do plants take in?\nAnswer:", ["Oxygen", "Carbon dioxide"])
    other = item(
        "b", "QUESTION: which gas do plants  take in\nANSWER", ["carbon-dioxide", "oxygen"]
    )
    assert overlaps([one], [other]) == [("text", "b", "a")]


STEM = "How do astronomers think Jupiter generates its internal heat?"


def test_the_same_stem_in_another_frame_with_other_options():
    one = item("a", f"Q: {STEM} (A) sun (B) gas", ["sun", "gas"], stem=STEM)
    other = item("b", f"{STEM}\nThink.", ["by contraction", "not at all"], stem=STEM.upper())
    assert overlaps([one], [other]) == [("stem", "b", "a")]


def test_a_stem_that_fits_any_question_counts_with_its_options_only():
    stem = "Which one of the following statements is true?"
    chosen = item("a", stem, ["Iron rusts.", "Gold rusts.", "Lead floats.", "Tin sings."])
    other = item("b", stem, ["Whales are fish.", "Bats are birds.", "Ants are mammals.", "None."])
    assert overlaps([chosen], [other]) == []
    more = item("c", f"Choose. {stem}", ["Gold rusts", "Iron rusts", *other.choices], stem=stem)
    assert overlaps([chosen], [more]) == [("stem", "c", "a")]  # half of the four
    some = item("d", f"Choose. {stem}", ["Gold rusts", *other.choices[1:]], stem=stem)
    fewer = item("e", stem, ["Iron rusts.", "Gold rusts.", "Lead floats."])
    assert overlaps([chosen, fewer], [some]) == []


def test_a_short_question_without_options_is_its_stem():
    one, two = (item(name, f"{name}: What is 3 + 4?", stem="What is 3 + 4?") for name in "ab")
    assert overlaps([one], [two]) == [("stem", "b", "a")]
    chosen = item("c", "What is 3 + 4?", ["6", "7"])
    assert overlaps([one], [chosen]) == [("stem", "c", "a")]
    assert overlaps([chosen], [two]) == [("stem", "b", "c")]


def test_letters_for_options_do_not_make_short_stems_the_same():
    stem, letters = "Which is true?", ("A", "B")
    one, two = (
        item(name, f"{stem}\nA. {name}\nB. not {name}", [name, f"not {name}"], options=letters,
             stem=stem)
        for name in ("iron", "gold")
    )  # fmt: skip
    assert overlaps([one], [two]) == []


def test_a_shared_passage_and_a_lost_letter_are_nearly_the_same():
    one = item("a", f"{PASSAGE} What best explains the author's aim?")
    two = item("b", f"{PASSAGE} Which movement would oppose this speech?")
    three = item("c", one.question.replace("capital ", "captal "))
    assert overlaps([one], [two, three]) == [("near", "b", "a"), ("near", "c", "a")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 0 + 0?", "What is 0 + 1?"),
        ("What is 0 + 1?", "What is 0 - 1?"),
        ("In biology, what is the maker of the cell?",
         "In biology, what is the maker of the base?"),
        ("Solve x^2 + 3x + 2 = 0 over the integers, if that is possible at all.",
         "Solve x^3 + 3x + 2 = 0 over the integers, if that is possible at all."),
        ("A car travels 30 km in 2 h and then rests for as long again; what is its mean speed?",
         "A car travels 40 km in 3 h and then rests for as long again; what is its mean speed?"),
        ("Using a complete truth table, decide whether the argument is valid: M ≡ ~N / M ⊃ N // N",
         "Using a complete truth table, decide whether the argument is valid: P ⊃ Q / ~Q // ~P"),
    ],
)  # fmt: skip
def test_another_question_of_the_same_template_is_another_question(one, other):
    assert overlaps([item("a", one)], [item("b", other)]) == []


def test_items_without_a_prompt_are_told_apart_by_their_options_or_not_at_all():
    """BLiMP scores sentences without any prompt; text that is only read has no question."""
    one, two = item("a", "", ["He sings.", "He sing."]), item("b", "", ["I see.", "I sees."])
    assert overlaps([one, item("c", "")], [two, item("d", "")]) == []
    assert overlaps([one], [item("e", "", ["He sing!", "He sings!"])]) == [("text", "e", "a")]


def test_every_two_splits_and_all_their_tasks_are_compared():
    question = item("q", STEM)
    splits = {
        "identification": split(question),
        "tuning": split(item("x", "Something else.")),
        "test": split(item("y", "Another thing.")) | split(question, question, task="u"),
    }
    found = find_leakage(splits)
    assert [(o.split, o.task, o.other_split, o.other_task) for o in found.overlaps] == [
        ("test", "u", "identification", "t")
    ] * 2
    assert found.checked == {"identification": 1, "tuning": 1, "test": 3}
    assert str(found) == "2 of 3 test items repeat items of the identification split"
    later = {"a": split(item("x", "?")), "b": split(question), "c": split(question)}
    assert [(o.split, o.other_split) for o in find_leakage(later).overlaps] == [("c", "b")]


def test_a_refusal_counts_and_names_and_says_the_ways_out():
    questions = [f"{word} {STEM}" for word in "But Now Then Here So Yet Thus".split()]
    items = [item(f"id{number}", question) for number, question in enumerate(questions)]
    splits = {"tuning": split(*items, task="old"), "test": split(*items, task="new")}
    with pytest.raises(UserError) as refused:
        check_leakage(splits)
    message = str(refused.value)
    assert message.startswith("leakage: 7 of 7 test items repeat items of the tuning split: ")
    assert (
        "test new id4 'So How do astronomers think Jupiter generates its internal heat?'" in message
    )
    assert "(same content: tuning old id4)" in message
    assert "id5" not in message
    assert "`dsmoe-eval leakage PLAN` lists all" in message
    assert "`allow_leakage: true`" in message


def test_an_overlap_that_was_asked_for_is_counted_and_listed_without_its_text():
    splits = {"tuning": split(item("a", PASSAGE)), "test": split(item("b", f"{PASSAGE} Why?"))}
    record = check_leakage(splits, "paper").to_dict()
    assert record["allowed_by"] == "allow_leakage: true"
    assert record["pairs"] == len(record["items"]) == 1
    assert record["items"][0] == {
        "rule": "near", "split": "test", "task": "t", "item": "b",
        "other_split": "tuning", "other_task": "t", "other_item": "a", "similarity": 0.987,
    }  # fmt: skip
    assert "colonialism" not in json.dumps(record)


def test_no_overlap_says_what_was_checked_and_by_which_rules():
    record = check_leakage({"tuning": split(item("a", "Why?")), "test": split()}).to_dict()
    assert record["pairs"] == 0
    assert record["items"] == []
    assert record["checked"] == [{"split": "tuning", "items": 1}, {"split": "test", "items": 0}]
    assert [row["rule"] for row in record["rules"]] == [
        "content",
        "text",
        "stem",
        "near",
        "passage",
    ]
    assert record["allowed_by"] is None


def test_the_lab_suite_passes_as_it_is():
    found = check_leakage(load_splits(load_suite("lab"), None))
    assert found.overlaps == ()
    assert min(found.checked.values()) > 500


def test_every_doubled_question_of_mmlu_pro_is_found(published):
    """Each text's first row against its repetitions; the expectation is counted by pandas."""
    rows = pd.read_parquet(published("mmlu_pro") / "mmlu_pro" / "test.parquet")
    counts = rows["question"].value_counts()
    doubled = set(counts[counts > 1].index)
    assert len(doubled) == {12032: 358, 26: 7}[len(rows)]
    generic = {
        question
        for question, group in rows[rows["question"].isin(doubled)].groupby("question")
        if len(question.split()) < 9 and not _some_share_half(group["options"])
    }
    items = [
        item(str(row.question_id), row.question, tuple(row.options)) for row in rows.itertuples()
    ]
    again = rows["question"].duplicated().tolist()
    found = find_leakage(
        {
            "first": split(
                *(one for one, is_again in zip(items, again, strict=True) if not is_again)
            ),
            "again": split(*(one for one, is_again in zip(items, again, strict=True) if is_again)),
        }
    )
    assert found.checked == {"first": len(rows) - sum(again), "again": sum(again)}
    texts = {one.id: one.question for one in items}
    assert {texts[overlap.item] for overlap in found.overlaps} == doubled - generic
    assert "near" not in {overlap.rule for overlap in found.overlaps}
    assert all("following" in question or len(question) < 70 for question in generic)


def _some_share_half(options):
    sets = [{re.sub(r"\W", "", option.casefold()) for option in each} for each in options]
    return any(
        2 * len(one & two) >= min(len(one), len(two))
        for number, one in enumerate(sets)
        for two in sets[:number]
    )


def passages(text, *items):
    """(rule, item) of test items that are also in a document; its chunks are shorter than they."""
    tasks = text_tasks([TextDocument("history", text, "line 1")], None, DocumentFile(
        file=Path(), characters=120
    ))  # fmt: skip
    found = find_leakage({"identification": tasks, "test": split(*items)}).overlaps
    return [(one.rule, one.item, one.similarity) for one in found]


def test_a_passage_of_an_item_is_no_text_that_experts_are_identified_from():
    other = "On the market day the carts came down from the hills, and none of them was empty. " * 3
    words = PASSAGE.split()
    inside = " ".join(words[5:60])
    asked, scored = item("a", inside), item("b", "What follows?", [other, inside])
    alone, short = item("c", other), item("d", " ".join(words[5:15]))
    text = f"{other[:83]} {PASSAGE} {other[:83]}".replace("developed", "Developed")
    assert passages(text, asked, scored, short) == [("passage", "a", 1.0), ("passage", "b", 1.0)]
    assert passages(PASSAGE, alone, short) == []
    # In the middle of a longer text, most of it other words.
    assert passages(text, item("e", f"{' '.join(other.split()[:30])} {' '.join(words * 2)}"))


def test_a_text_that_is_an_item_is_reported_once():
    (one,) = passages(PASSAGE[:118], item("a", PASSAGE[:118]))
    assert one == ("text", "a", 1.0)
