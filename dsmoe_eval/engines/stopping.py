"""Ends generation when every text of a batch has met a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopAtStrings(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Tells for each text whether a stop string stands in what was generated.

    The last tokens are decoded at each step, and only where they hold a stop string the whole
    answer, so that a text counts as stopped exactly where it will be cut.

    Args:
        tokenizer: that decodes.
        stops: none of them empty.
        prompt: tokens before the answers.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt: int) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self.prompt = prompt
        # A token that adds to the text adds a byte at least.
        self.tail = max(len(stop.encode()) for stop in self.stops) + 1
        self._stopped: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """[texts], True where generation may end."""
        del scores
        if self._stopped is None:
            self._stopped = torch.zeros(len(input_ids), dtype=torch.bool)
        going = (~self._stopped).nonzero().flatten().tolist()
        answers = input_ids[:, self.prompt :].cpu()
        tails = self._decode(answers[going, -self.tail :])
        found = [index for index, text in zip(going, tails, strict=True) if self._holds(text)]
        for index, text in zip(found, self._decode(answers[found]), strict=True):
            self._stopped[index] = self._holds(text)
        return self._stopped.to(input_ids.device)

    def _decode(self, tokens: Tensor) -> list[str]:
        if not len(tokens):
            return []
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _holds(self, text: str) -> bool:
        return any(stop in text for stop in self.stops)
