"""A word is a token, a digit is a token, and decoding gives the text back."""

import pytest

from dsmoe_eval.lab.tokenizer import build_tokenizer
from dsmoe_eval.lab.world import arithmetic_question, build_world, named_question

WORLD = build_world()
TOKENIZER = build_tokenizer(WORLD)


@pytest.mark.parametrize("fact", WORLD.facts[::97], ids=lambda fact: fact.answer)
def test_an_answer_is_one_token_after_any_question(fact):
    question = named_question(fact)
    start, whole = TOKENIZER.encode(question), TOKENIZER.encode(f"{question} {fact.answer}")
    assert whole[: len(start)] == start
    assert len(whole) == len(start) + 1
    assert TOKENIZER.unk_token_id not in whole
    assert TOKENIZER.decode(whole) == f"{question} {fact.answer}"


@pytest.mark.parametrize("item", WORLD.sums[::41], ids=str)
def test_a_number_is_its_digits(item):
    text = f"{arithmetic_question(item)} {item.answer}"
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.unk_token_id not in ids
    assert TOKENIZER.decode(ids) == text
    assert len(ids) - len(TOKENIZER.encode(arithmetic_question(item))) == 1 + len(str(item.answer))


def test_what_the_world_does_not_know_is_unknown():
    assert TOKENIZER.encode("What is quicksand?").count(TOKENIZER.unk_token_id) == 1
