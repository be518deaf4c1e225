"""The transformers engine to time: one model object, steered or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from models import timed

CACHE, STEPS = 112, 4  # tokens before decoding; steps in a timing


class Transformers:
    """The two works on one model object, steered or not."""

    def __init__(self, model: Any, device: str, prefill: int) -> None:
        self.model, self.device = model, device
        generator = torch.Generator().manual_seed(1)
        vocabulary = self.model.config.get_text_config().vocab_size
        tokens = torch.randint(vocabulary, (1, prefill), generator=generator)
        self.tokens = tokens.to(self.device)
        self.cache: Any = None
        self.used = 0

    def prefill(self, _pair: int) -> float:
        """Seconds of a forward over the prompt that fills a new cache."""
        return timed(lambda: self._forward(self.tokens, None), self.device)

    def decode(self, pair: int) -> float:
        """Seconds of a step, the mean of a few; the one before them takes up the change of arm."""
        at = (pair * STEPS) % (self.tokens.shape[1] - STEPS)
        steps = [self.tokens[:, i : i + 1] for i in range(at, at + STEPS)]
        self._forward(steps[0], self.cache)
        self.used += 1 + STEPS

        def work() -> None:
            for step in steps:
                self._forward(step, self.cache)

        return timed(work, self.device) / STEPS

    def refill(self) -> None:
        """A new cache where the old one has grown, since not every kind of cache can be cut."""
        if self.cache is None or self.used > 3 * (1 + STEPS):
            self.cache = self._forward(self.tokens[:, :CACHE], None).past_key_values
            self.used = 0

    def step(self) -> None:
        """A decode step, not timed."""
        self.refill()
        self.used += 1
        self._forward(self.tokens[:, :1], self.cache)

    def arms(
        self, work: str, put_on: Callable[[], AbstractContextManager[Any]]
    ) -> Callable[[int], float]:
        """An arm; its steering is put on before the time starts and taken off after it."""

        def arm(pair: int) -> float:
            if work == "decode":
                self.refill()
            with put_on():
                return float(getattr(self, work)(pair))

        return arm

    def _forward(self, tokens: torch.Tensor, cache: Any) -> Any:
        return self.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
