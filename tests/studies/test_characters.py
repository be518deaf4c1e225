"""Text of 27 characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmoe_eval.errors import UserError
from dsmoe_eval.studies.characters import character_text, character_tokenizer

TOKENIZER = character_tokenizer(64)


def test_it_is_text8s():
    ids = TOKENIZER("Hellö, 1984's World!\n\ny-z.")["input_ids"]
    assert TOKENIZER.decode(ids) == "hello one nine eight four s world y z"


@given(st.text())
def test_any_text_has_these_characters_only(text):
    ids = TOKENIZER(text)["input_ids"]
    said = TOKENIZER.decode(ids)
    assert set(said) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert len(said) == len(ids)
    assert said == " ".join(said.split())


def test_documents_are_held_out():
    text = character_text("smol", TOKENIZER)
    assert len(text.held_out) == len(text.domains) == 156
    assert len(set(text.domains)) == 9
    trained = TOKENIZER.decode(text.trained.tolist())
    assert all(TOKENIZER.decode(one[1:201].tolist()) not in trained for one in text.held_out)


def test_a_suite_without_documents_is_refused():
    with pytest.raises(UserError, match="has no documents with splits"):
        character_text("lab", TOKENIZER)
