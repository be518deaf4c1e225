"""What a carving is trained on, and what it is measured on."""

import pytest

from dsmoe_eval.errors import UserError
from dsmoe_eval.lab.passages import held_out, training_tokens


class Letters:
    eos_token_id = 0

    def __call__(self, text):
        return {"input_ids": [[ord(letter) for letter in one] for one in text]}


def test_what_is_trained_on_is_not_measured():
    texts = {"a": [str(index) * 3000 for index in range(10)], "b": ["x" * 50] * 4}
    passages = held_out(texts, Letters(), 100)
    assert {name: rows.tolist() for name, rows in passages.items()} == {
        "a": [[ord("4")] * 100, [ord("9")] * 100]
    }
    tokens = training_tokens(texts, Letters(), 64)
    assert set(tokens.flatten().tolist()) == {0, *map(ord, "012567x")}
    with pytest.raises(UserError, match="no document is left to measure on"):
        held_out({"b": texts["b"]}, Letters(), 100)
    with pytest.raises(UserError, match="has 153 tokens, and one sequence has 512"):
        training_tokens({"b": texts["b"]}, Letters(), 512)
