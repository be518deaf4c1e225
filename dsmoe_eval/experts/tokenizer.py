"""The part of the interface of a transformers tokenizer that is used here, with types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    """A tokenizer of transformers (`PreTrainedTokenizerBase`)."""

    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int
    pad_token_id: int | None
    unk_token_id: int | None
    chat_template: str | Mapping[str, str] | None

    def __call__(self, text: str | list[str], **options: object) -> Mapping[str, Any]:
        """Return columns such as `input_ids`, for one text or for each text of a list."""

    def __len__(self) -> int:
        """Return the number of tokens, with added ones."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, token_ids: int | Sequence[int], **options: object) -> str:
        """Return the text of token ids."""

    def apply_chat_template(self, conversation: object, **options: object) -> Any:
        """Return a conversation as text or as token ids."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary's strings for token ids."""

    def get_vocab(self) -> Mapping[str, int]:
        """Return the vocabulary: token -> id."""

    def get_added_vocab(self) -> Mapping[str, int]:
        """Return the tokens added to the vocabulary, such as special ones: token -> id."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write the tokenizer's files in a folder."""


def written_starts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the texts at the beginning of a prompt that has its first tokens in words.

    These are the first token of a text (as in lm-eval's `hf`), and each token that the tokenizer
    adds before a text, such as `[gMASK]` and `<sop>`: what a template writes is not added again.
    """
    body, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    places = range(len(whole) - len(body) + 1)
    start = next((place for place in places if whole[place : place + len(body)] == body), 0)
    first = tokenizer.bos_token or tokenizer.eos_token
    return tuple(filter(None, [first, *(tokenizer.decode([token]) for token in whole[:start])]))
