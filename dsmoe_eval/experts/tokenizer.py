"""The part of the interface of a transformers tokenizer that is used here, with types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
