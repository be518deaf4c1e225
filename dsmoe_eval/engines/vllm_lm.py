"""The vLLM engine, shown to lm-eval as an LM; what it gives is what `TransformersLM` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM

from ..errors import UserError
from .transformers import _cut, _generation_settings
from .vllm import VllmEngine


class VllmLM(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's LM over a running engine; steer it around the calls."""

    def __init__(self, engine: VllmEngine, tokenizer: Any) -> None:
        super().__init__()
        self.engine = engine
        self.tokenizer = tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's request cache key."""
        return self.engine.identity.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self.tokenizer.encode(
            string, add_special_tokens=add_special_tokens is not False
        )
        return ids

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each (context, continuation); no bar of lm-eval's own."""
        del disable_tqdm
        result: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return result

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        for texts, _context, continuation in requests:
            if not continuation:
                # Its log-likelihood would be 0, better than that of any other option.
                raise UserError(f"the tokenizer gives no token for the answer {texts[1]!r:.60}")
        sequences = [(*context, *continuation) for _, context, continuation in requests]
        unique = list(dict.fromkeys(sequences))
        scores = dict(zip(unique, self.engine.score(unique), strict=True))
        answers = []
        for sequence, (_, _context, continuation) in zip(sequences, requests, strict=True):
            values, ranks = (part[-len(continuation) :] for part in scores[sequence])
            answers.append((float(values.sum()), bool((ranks == 1).all())))
        return answers

    def loglikelihood_rolling(self, *_: Any, **__: Any) -> list[float]:
        """Not served yet.

        Raises:
            UserError: always.
        """
        raise UserError("rolling log-likelihood (perplexity tasks) is not served by this version")

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, cut at the first stop string.

        Raises:
            UserError: a task asks for sampling.
        """
        del disable_tqdm
        texts = []
        for request in requests:
            limit, stops = _generation_settings(request.args[1])
            prompt = self.tok_encode(request.args[0])
            (tokens,) = self.engine.generate([prompt], limit, [self.eot_token_id])
            texts.append(_cut(self.tokenizer.decode(tokens, skip_special_tokens=True), stops))
        return texts
