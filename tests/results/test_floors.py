"""What items give without a model, against items made by hand and answers tried one by one."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.results.floors import chance, constant


def items(*rows):
    """Of each item its options and its gold."""
    return pd.DataFrame({"options": [list(own) for own, _ in rows], "gold": [g for _, g in rows]})


@pytest.mark.parametrize(
    ("rows", "guessed", "best"),
    [
        # Two, four and five options; the second is right twice, no text is right twice.
        ([("ab", "b"), ("cdef", "d"), ("ghijk", "k")], (1 / 2 + 1 / 4 + 1 / 5) / 3, 2 / 3),
        # The same text is right three times, at another position each time.
        ([("abc", "a"), ("bac", "a"), ("bca", "a"), ("abc", "c")], 1 / 3, 3 / 4),
        ([("AB", "A")], 1 / 2, 1.0),
        # Generated: `7` is right in two of five items.
        ([("", "7"), ("", "8"), ("", "7"), ("", "9"), ("", "10")], None, 2 / 5),
        # A gold that is no option, as where several are right, is right at no position.
        ([("ab", "[0, 1]"), ("ab", "b")], 1 / 2, 1 / 2),
        ([("", ""), ("", " ")], None, None),
    ],
)
def test_floors_of_items_made_by_hand(rows, guessed, best):
    found = items(*rows)
    assert chance(found) == pytest.approx(guessed)
    assert constant(found, "acc") == pytest.approx(best)


def test_instructions_have_no_constant_answer():
    rows = items(("", "0"), ("", "0"))
    assert constant(rows, "prompt_level_strict_acc") is None
    assert constant(rows, "exact_match") == 1.0


OPTIONS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True)
ITEM = OPTIONS.flatmap(lambda own: st.tuples(st.just(own), st.sampled_from(own)))


@given(st.lists(ITEM, min_size=1, max_size=12))
def test_no_constant_answer_gets_more(rows):
    """Against every answer that can be given to all items, tried one by one."""
    by_text = [sum(gold == text for _, gold in rows) for text in "abcde"]
    by_position = [
        sum(len(own) > place and own[place] == gold for own, gold in rows) for place in range(5)
    ]
    assert constant(items(*rows), "acc") == max(by_text + by_position) / len(rows)
    expected = sum(sum(option == gold for option in own) / len(own) for own, gold in rows)
    assert chance(items(*rows)) == pytest.approx(expected / len(rows))
