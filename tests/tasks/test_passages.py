"""Next-passage choice, by properties: the right option is right, and nothing else tells it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.tasks.passages import (
    CONTEXT_CHARACTERS,
    CONTINUATION_CHARACTERS,
    OPTIONS,
    STRETCH,
    Passage,
    passage_items,
    passages,
)
from dsmoe_eval.tasks.texts import TextDocument

WORD = st.text("abcdé", min_size=1, max_size=9)
TEXTS = st.tuples(st.lists(WORD, min_size=20, max_size=40), st.integers(0, 40)).map(
    lambda made: " \n".join(f"{word}{n} {word}" for n in range(made[1]) for word in made[0])
)
POOLS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), min_size=4, unique=True).map(
    lambda pairs: [Passage(f"d{d}", f"context {d} {n}", f"continuation {n}") for d, n in pairs]
)


@given(TEXTS, st.integers(1, 6))
def test_a_passage_and_its_continuation_follow_each_other_in_the_document(text, most):
    found = passages(TextDocument("law", text.strip(), "t"), "one", most)
    assert len(found) == min(most, len(text.strip()) // STRETCH)
    flat, words, last = " ".join(text.split()), set(text.split()), 0
    for one in found:
        both = " ".join(f"{one.context} {one.continuation}".split())
        assert both in flat
        assert set(both.split()) <= words  # no word was cut
        last = flat.index(both, last) + len(both)  # one after the other
        assert CONTEXT_CHARACTERS - 25 < len(one.context) <= CONTEXT_CHARACTERS
        assert CONTINUATION_CHARACTERS - 25 < len(one.continuation) <= CONTINUATION_CHARACTERS


@given(POOLS, st.integers(0, 9))
def test_the_true_continuation_is_right_and_the_others_are_of_other_documents(pool, seed):
    texts = {one.continuation for one in pool}
    if len(texts) < OPTIONS:
        with pytest.raises(UserError, match="give more or longer documents"):
            passage_items(pool, seed)
        return
    items = passage_items(pool, seed)
    assert items == passage_items(pool, seed)
    for one, item in zip(pool, items, strict=True):
        assert (item.document, item.context) == (one.document, one.context)
        assert item.options[item.gold] == one.continuation
        assert len(item.options) == len(set(item.options)) == OPTIONS
        false = set(item.options) - {one.continuation}
        assert false <= texts
        elsewhere = {p.continuation for p in pool if p.document != one.document}
        if len(elsewhere - {one.continuation}) >= OPTIONS - 1:
            assert false <= elsewhere


def test_false_options_are_of_different_documents_while_there_are_enough():
    pool = [Passage(f"d{d}", f"c{d}{n}", f"{d}{n}") for d in range(5) for n in range(4)]
    for seed in range(20):
        for item in passage_items(pool, seed):
            assert len({option[0] for option in item.options}) == OPTIONS


def test_the_right_option_is_anywhere_and_an_item_depends_on_no_other_item():
    pool = [Passage(f"d{n}", f"c{n}", f"text {n}") for n in range(400)]
    items = passage_items(pool)
    counts = [sum(item.gold == gold for item in items) for gold in range(OPTIONS)]
    assert min(counts) > 70
    assert passage_items(pool, 1) != items
