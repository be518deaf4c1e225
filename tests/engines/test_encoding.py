"""Texts are encoded once, alone or together, with the first token where they lack it."""

import pytest

from dsmoe_eval.engines.encoding import Encoder
from dsmoe_eval.models.loading import load_tokenizer

TEXTS = ["What is the sign of the root?", "", "In law, the keeper", " the", "In law, the keeper"]


class Counting:
    """A tokenizer that tells how many texts it was given."""

    def __init__(self, start=None):
        self._own, self.given = load_tokenizer("lab-poly"), []
        self.bos_token, self.eos_token = start, start

    def encode(self, text, add_special_tokens):
        self.given.append((text, add_special_tokens))
        return self._own.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, tokens):
        return self._own.decode(tokens)

    def __call__(self, texts, add_special_tokens):
        self.given += [(text, add_special_tokens) for text in texts]
        return self._own(texts, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("start", [None, "In"])
def test_texts_together_are_what_they_are_alone(start):
    alone, together = Encoder(Counting(start)), Encoder(tokenizer := Counting(start))
    tokenizer.given.clear()  # what it adds before a text was asked
    together.encode_together(TEXTS)
    assert len(tokenizer.given) == 3
    assert {text for text, special in tokenizer.given if not special} == (
        {"In law, the keeper"} if start else set()
    )
    expected = [alone.encode(text) for text in TEXTS]
    assert [together.encode(text) for text in TEXTS] == expected
    assert len(tokenizer.given) == 4  # the empty one is encoded when it is asked for
    together.encode_together(TEXTS)
    assert len(tokenizer.given) == 4
    together.forget()
    together.encode_together(TEXTS)
    assert len(tokenizer.given) == 7
