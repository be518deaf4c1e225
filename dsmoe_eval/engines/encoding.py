"""The token ids of texts, which are remembered, since every arm needs the same texts."""

from __future__ import annotations

from collections.abc import Iterable

from ..experts.tokenizer import Tokenizer, written_starts


class Encoder:
    """An encoder that encodes each text once.

    It adds the tokenizer's first tokens before a text that does not begin with them.

    Args:
        tokenizer: a model's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._starts = written_starts(tokenizer)
        self._known: dict[tuple[bool, str], list[int]] = {}

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: the text to encode.
            add_special_tokens: whether the tokenizer adds its special tokens. None adds them unless
                the text already begins with a first token in words, which is then not added twice
                (as in lm-eval's `hf` model; see `written_starts`).
        """
        special = self._lacks_start(text) if add_special_tokens is None else add_special_tokens
        key = special, text
        if key not in self._known:
            self._known[key] = self._tokenizer.encode(text, add_special_tokens=special)
        return self._known[key]

    def encode_together(self, texts: Iterable[str]) -> None:
        """Encode texts in one call, which takes half the time, and remember their token ids."""
        keys = {(self._lacks_start(text), text): None for text in texts if text}
        for special in (False, True):
            missing = [text for own, text in keys if own == special]
            missing = [text for text in missing if (special, text) not in self._known]
            if missing:
                rows = self._tokenizer(missing, add_special_tokens=special)["input_ids"]
                self._known |= {(special, t): row for t, row in zip(missing, rows, strict=True)}

    def forget(self) -> None:
        """Remove all remembered token ids, so that every text is encoded again."""
        self._known.clear()

    def _lacks_start(self, text: str) -> bool:
        return not text.startswith(self._starts)
