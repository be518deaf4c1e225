"""Requests to an engine and its answers; importing this module loads no engine."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..experts.tokenizer import Tokenizer
from ..tasks.decoding import Decoding

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings by which the next token is drawn; `temperature` is above 0."""

    temperature: float
    seed: int
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None

    @classmethod
    def of(cls, decoding: Decoding, content: str) -> Sampling | None:
        """Return the sampling of a request, seeded by `content`; None if decoding is greedy."""
        if decoding.drawn_at is None:
            return None
        seed = int.from_bytes(hashlib.sha256(content.encode()).digest()[:7])
        top_p = decoding.top_p if decoding.top_p < 1 else None
        top_k = decoding.top_k if decoding.top_k > 0 else None
        return cls(decoding.drawn_at, seed, top_p, top_k, decoding.min_p or None)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one answer.

    Attributes:
        prompt: token ids, at least one.
        limit: maximum number of new tokens.
        stops: strings before which the text ends; special tokens are matched by their spelling.
        after: stop strings count only after these tokens (the end of a model's thinking).
        sampling: the settings of sampling; None for greedy decoding.
        shaping: `Decoding.shaping`, settings that change the logits before a token is chosen.
        top_logprobs: number of likeliest tokens to report with each token; None for no
            log-probabilities.
    """

    prompt: Tokens
    limit: int
    stops: tuple[str, ...] = ()
    after: Tokens = ()
    sampling: Sampling | None = None
    top_logprobs: int | None = None
    shaping: tuple[tuple[str, object], ...] = ()

    def greedy(self, tokens: int) -> Request:
        """Return a request for at most `tokens` greedy tokens with their log-probabilities."""
        return Request(self.prompt, min(tokens, self.limit), top_logprobs=0)


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A generated token with its log-probability.

    Attributes:
        token: token id.
        logprob: natural logarithm of the token's probability, before temperature.
        top: (token id, log-probability) of the likeliest tokens at this position.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a request.

    Attributes:
        tokens: generated tokens, including those of the end of text or stop string that ended them.
        reason: `stop` for an end of text or a stop string, `max_tokens` for the request's limit.
        scores: one per token; empty if the request has no `top_logprobs`.
    """

    tokens: Tokens
    reason: Literal["stop", "max_tokens"]
    scores: tuple[ScoredToken, ...] = ()


def split_reasoning(
    answer: Answer, marker: Tokens, began: bool = True
) -> tuple[Tokens | None, Tokens]:
    """Split the tokens of an answer at the last marker, into thinking and text.

    Without a marker the thinking is None. But an answer that reached its limit before the marker is
    all thinking if the thinking `began`.
    """
    tokens, size = answer.tokens, len(marker)
    if not size:
        return None, tokens
    for place in range(len(tokens) - size, -1, -1):
        if tokens[place : place + size] == marker:
            return tokens[:place], tokens[place + size :]
    return (tokens, ()) if began and answer.reason == "max_tokens" else (None, tokens)


def cut(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first stop string."""
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def holds_stop(tokenizer: Tokenizer, tokens: Sequence[int], request: Request) -> bool:
    """Return whether a stop string is in the text of tokens, special tokens included.

    Blanks between a model's thinking and its answer match no stop string.
    """
    text = _text(tokenizer, tokens, request, special=True)
    return any(stop in text for stop in request.stops)


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int], request: Request) -> str:
    """Return the text of tokens, without special tokens, up to the first stop string.

    As in lm-eval's `hf` model, special tokens may stop an answer but are not part of its text.
    """
    if holds_stop(tokenizer, tokens[:-1], request):
        ends = range(len(tokens))
        tokens = tokens[
            : bisect_left(ends, True, key=lambda n: holds_stop(tokenizer, tokens[:n], request))
        ]
    return cut(_text(tokenizer, tokens, request, special=False), request.stops)


def _text(tokenizer: Tokenizer, tokens: Sequence[int], request: Request, *, special: bool) -> str:
    text = str(tokenizer.decode(tokens, skip_special_tokens=not special))
    return text.lstrip() if request.after else text
