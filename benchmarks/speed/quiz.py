"""A random mixture-of-experts model, and ten-option questions of made-up words for it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

QUIZ_MODEL = {
    "vocab_size": 8000, "hidden_size": 256, "intermediate_size": 176, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8, "num_experts": 32,
    "num_experts_per_tok": 4, "norm_topk_prob": False, "max_position_embeddings": 2048,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
"""OLMoE's shape with 41M parameters."""

LETTERS = "ABCDEFGHIJ"
MARKS = (".", ":", "?")


@dataclass(frozen=True)
class Item:
    """A question and its options, of made-up words."""

    question: str
    options: tuple[str, ...]

    def text(self) -> str:
        """What is identified on: a question without its answer."""
        lines = [
            f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True)
        ]
        return "\n".join([self.question, *lines, "Answer:"])


def make_tokenizer(vocabulary: int) -> Any:
    """A token for each made-up word, letter and mark; newlines and spaces give none."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, unknown = "[pad]", "[unk]"
    names = [pad, unknown, *LETTERS, *MARKS, "Answer"]
    names += _words(vocabulary - len(names))
    by_name = {name: index for index, name in enumerate(names)}
    words = Tokenizer(models.WordLevel(by_name, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad, unk_token=unknown, model_max_length=2048
    )


def make_items(count: int, vocabulary: int) -> list[Item]:
    """Questions of 30 to 60 words with ten options of 6 to 10: some 148 tokens each."""
    chance = random.Random(0)
    words = _words(vocabulary - len(LETTERS) - len(MARKS) - 3)

    def phrase(low: int, high: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(low, high)))

    return [Item(phrase(30, 60) + "?", tuple(phrase(6, 10) for _ in LETTERS)) for _ in range(count)]


def _words(count: int) -> list[str]:
    """Distinct words of two to four syllables, none of them English stop words."""
    chance = random.Random(1)
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = range(chance.randint(2, 4))
        word = "".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in syllables)
        found["q" + word] = None
    return list(found)
