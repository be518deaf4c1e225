"""Requests to an engine, and the answers that come back; no engine is needed to read this."""

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
    """How the next token is drawn; `temperature` is above 0."""

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
    """What one text is wanted for.

    Attributes:
        prompt: token ids, at least one.
        limit: new tokens at most.
        stops: strings before which the text ends; special tokens count as they are spelled.
        after: stop strings count only behind these tokens (the end of a model's thinking).
        sampling: None is greedy.
        shaping: `Decoding.shaping`, what changes the logits before.
        top_logprobs: how many likely tokens are told with each; None: no log-probabilities.
    """

    prompt: Tokens
    limit: int
    stops: tuple[str, ...] = ()
    after: Tokens = ()
    sampling: Sampling | None = None
    top_logprobs: int | None = None
    shaping: tuple[tuple[str, object], ...] = ()

    def greedy(self, tokens: int) -> Request:
        """A few likeliest tokens with their log-probabilities instead."""
        return Request(self.prompt, min(tokens, self.limit), top_logprobs=0)


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, its log-probability (natural, before temperature), and the likeliest there."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came.

    Attributes:
        tokens: with the end of text where it came, and the stop string's.
        reason: `stop`: an end of text or a stop string; else the request's limit was reached.
        scores: of each token; empty where they were not asked for.
    """

    tokens: Tokens
    reason: Literal["stop", "max_tokens"]
    scores: tuple[ScoredToken, ...] = ()


def split_reasoning(
    answer: Answer, marker: Tokens, began: bool = True
) -> tuple[Tokens | None, Tokens]:
    """Split tokens at the last marker; there is no thought where the model did not think.

    An answer that its limit ended before the marker is all thought if the thinking `began`.
    """
    tokens, size = answer.tokens, len(marker)
    if not size:
        return None, tokens
    for place in range(len(tokens) - size, -1, -1):
        if tokens[place : place + size] == marker:
            return tokens[:place], tokens[place + size :]
    return (tokens, ()) if began and answer.reason == "max_tokens" else (None, tokens)


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop string."""
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def holds_stop(tokenizer: Tokenizer, tokens: Sequence[int], request: Request) -> bool:
    """Return whether a stop string is in what was said, special tokens included.

    Blanks between a model's thinking and its answer stop nothing.
    """
    text = _text(tokenizer, tokens, request, special=True)
    return any(stop in text for stop in request.stops)


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int], request: Request) -> str:
    """Return what was said, without special tokens, up to the first stop string.

    As in lm-eval's `hf`, where special tokens may stop an answer and are no part of its text.
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
