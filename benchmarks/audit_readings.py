"""What the audit reads of a steered model: outcomes of questions, or likelihoods of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray

from dsmoe_eval.engines.base import Engine
from dsmoe_eval.experts import OutcomeItem

Floats = NDArray[np.float64]


def answers_reading(engine: Engine, items: Sequence[OutcomeItem]) -> Callable[[], Floats]:
    """Return the function that reads the outcomes of questions, each text once."""
    lm, pairs = engine.language_model(), dict[tuple[tuple[int, ...], tuple[int, ...]], float]()
    for item in items:
        for text in item.texts:
            pairs[text.tokens[: text.start], text.tokens[text.start :]] = 0.0

    def outcomes() -> Floats:
        found = lm._loglikelihood_tokens([("", list(a), list(b)) for a, b in pairs])
        pairs.update({pair: value for pair, (value, _) in zip(pairs, found, strict=True)})
        rows = [[pairs[t.tokens[: t.start], t.tokens[t.start :]] for t in i.texts] for i in items]
        return np.array([i.weights(np.array(r))[0] for i, r in zip(items, rows, strict=True)])

    return outcomes


class TextReading:
    """Reads mean log-likelihoods of texts; layers below a changed one are not computed again."""

    def __init__(self, engine: Engine, items: Sequence[OutcomeItem]) -> None:
        self.model = engine.reader().model
        longest = max(len(item.texts[0].tokens) for item in items)
        self.ids = torch.zeros(len(items), longest, dtype=torch.long)
        self.mask = torch.zeros(len(items), longest - 1)
        for row, item in enumerate(items):
            tokens = item.texts[0].tokens
            self.ids[row, : len(tokens)] = torch.tensor(tokens)
            self.mask[row, : len(tokens) - 1] = 1
        self.stored: list[object] = []
        layers, stored = self.model.model.layers, self.stored
        with ExitStack() as stack:
            for layer in layers:
                hook = layer.register_forward_hook(lambda _m, _a, output: stored.append(output))
                stack.callback(hook.remove)
            self.read()

    @torch.no_grad()
    def read(self) -> Floats:
        """Return the mean log-likelihood per token of each text."""
        logits = self.model(self.ids, use_cache=False).logits[:, :-1].float()
        values = logits.log_softmax(-1).gather(2, self.ids[:, 1:, None])[..., 0] * self.mask
        return (values.sum(1) / self.mask.sum(1)).double().numpy()

    def above(self, layer: int) -> Callable[[], Floats]:
        """Return a reader for changes in a layer."""

        def outcomes() -> Floats:
            below = list(self.model.model.layers)[:layer]
            for one, output in zip(below, self.stored, strict=False):
                one.forward = lambda *_args, _output=output, **_given: _output
            try:
                return self.read()
            finally:
                for one in below:
                    del one.forward

        return outcomes
