"""The YAML of a card holds the card, whatever its strings are, and its comments are comments."""

import pytest
import yaml

from dsmoe_eval.cards import ModelCard
from dsmoe_eval.models.card_yaml import to_yaml
from dsmoe_eval.registry import builtin_names, load_model_card

WORDS = (
    "plain", "", " ", "a: b # c", "- x", "{", "'\"", "null", "yes", "1e5", "!x", "&a *a", "%", "\t",
    "two\nlines", "\n\n  x\n", "\x85", "\u2028", "\x1b[0m", "\ufeff", "\U000134ef", "\u25c1t\u25b7",
)  # fmt: skip
VALUES = (None, True, -1, 2**62, 1e-06, 1e22, 0.1, [], {}, [[1, 2], []], {"a": {"b": [None]}})


def test_the_embedded_cards_are_written_and_read_back():
    for name in builtin_names("models"):
        card = load_model_card(name)
        assert ModelCard.model_validate(yaml.safe_load(to_yaml(card, {}))) == card


@pytest.mark.parametrize("words", WORDS)
def test_any_text_and_value_is_read_back(words):
    values = {f"key {number}": value for number, value in enumerate(VALUES)}
    config = {"num_hidden_layers": 16, **values, words: words, "inner": {words: [words]}}
    card = load_model_card("olmoe-1b-7b").model_copy(
        update={"config": config, "notes": words or None, "sources": (words,)}
    )
    text = to_yaml(card, {"hub_id": f"a: b # {words}", "config": words, "parameters.total": words})
    assert yaml.safe_load(text) == card.model_dump(mode="json", exclude_defaults=True)


def test_what_is_not_known_is_written_though_it_has_its_default():
    card = load_model_card("olmoe-1b-7b")
    text = to_yaml(card, {"shared_experts": "layers\ndiffer", "parameters.published": "why"})
    assert "shared_experts: 0  # not known: layers differ\n" in text
    assert "  published: {total: 6.9B" in text
    assert text.count("#") == 2
    assert "dense_layers" not in text
