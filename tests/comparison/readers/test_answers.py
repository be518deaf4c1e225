"""How answers match the right ones, and that near misses are counted."""

import pandas as pd
import pytest

from dsmoe_eval.comparison import Selection
from dsmoe_eval.comparison.readers import read_results
from dsmoe_eval.comparison.readers.answers import judged
from dsmoe_eval.errors import UserError

GOLD = ["A", "Paris", "1234", "2.5", "B"]
ANSWERS = ["a", " paris ", "1,234", "2.50", None]


def scores(match, answers=ANSWERS, gold=GOLD, marks=False):
    found, notes = judged(
        "t", pd.Series(answers, dtype=object), pd.Series(gold, dtype=object), match, marks
    )
    return found.tolist(), notes


@pytest.mark.parametrize(
    ("match", "right", "near"),
    [
        ("exact", [0, 0, 0, 0, 0], "4 answers .* see --match number or --match casefold-strip"),
        ("number", [0, 0, 1, 1, 0], "2 answers .*by number; see --match casefold-strip"),
        ("casefold-strip", [1, 1, 0, 0, 0], "2 answers .*casefold-strip; see --match number"),
    ],
)
def test_case_01_near_misses_are_counted(match, right, near):
    found, (note,) = scores(match)
    assert found == right
    assert note.startswith(near.split(" .*")[0])
    assert note.endswith(near.split("see ")[1])
    assert "case, blanks or thousands separators" in note


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("1,234.50", "1234.5", True), ("1 234", "1234", True), ("0", "-0.0", True),
        ("1e3", "1000", True), ("12,34", "1234", False), ("x", "x", True), ("x", "X", False),
        ("nan", "nan", True), ("1", "1.0000000001", False), ("0", "zero", False),
    ],
)  # fmt: skip
def test_case_01_numbers_match_whatever_their_notation(answer, gold, same):
    assert scores("number", [answer], [gold])[0] == [float(same)]


def test_exact_answers_leave_nothing_to_note():
    assert scores("exact", GOLD) == ([1, 1, 1, 1, 1], ())


def test_case_01_none_can_be_declared_an_answer():
    with pytest.raises(
        UserError, match=r"1 answers are 'None'.*--missing-value None.*--no-missing"
    ):
        scores("exact", ["None", "B"], ["A", "B"])
    assert scores("exact", ["None", "B"], ["A", "B"], marks=True)[0] == [0, 1]
    assert scores("exact", ["None", "B"], ["None", "B"])[0] == [1, 1]
    frame = pd.DataFrame({"item": [1, 2], "gold": ["A", "B"], "score": ["None", "B"]})
    missing = read_results(frame, Selection(gold="gold", missing_value="None"))
    assert (missing.table["score"].tolist(), missing.unscored) == ([1], ("1",))
    kept = read_results(frame, Selection(gold="gold", no_missing_value=True))
    assert (kept.table["score"].tolist(), kept.unscored) == ([0, 1], ())


def test_a_missing_right_answer_is_refused_by_its_row():
    with pytest.raises(UserError, match=r"t: 1 item.* first in row 2.*--gold"):
        scores("exact", ["A", "B"], ["A", None])


def test_case_01_the_match_is_part_of_the_selection():
    frame = pd.DataFrame({"item": [1, 2], "gold": ["A", "B"], "score": ["a", "B"]})
    exact = read_results(frame, Selection(gold="gold"))
    assert (exact.table["score"].tolist(), len(exact.notes)) == ([0, 1], 1)
    folded = read_results(frame, Selection(gold="gold", match="casefold-strip"))
    assert (folded.table["score"].tolist(), folded.notes) == ([1, 1], ())
    with pytest.raises(UserError, match=r"--match compares answers with right ones.*--gold"):
        read_results(frame, Selection(match="number"))
