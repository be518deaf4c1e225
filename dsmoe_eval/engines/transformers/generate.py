"""Texts from requests that may differ in everything, in one batch.

A request's own draw of random numbers, its own limit and its own stop strings go with it, so what
it is batched with changes no more than the last bits of its logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicCache

from ...experts.tokenizer import Tokenizer
from ...models.loading import LoadedModel
from ..requests import Answer, Request, Sampling, ScoredToken, holds_stop

TOKENS_A_BATCH = 8192
"""Most tokens in a batch of greedy answers."""


@torch.no_grad()
def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    cache: DynamicCache | None = None,
) -> list[Answer]:
    """Answer requests in one batch, the model as it stands.

    Args:
        loaded: the model.
        requests: at least one; prompt and limit fit into the model's positions.
        cache: keys and values of the first columns of these prompts, padded on the left by `gaps`;
            see `packed.grown_from`.
    """
    padded = list(zip(requests, gaps(requests), strict=True))
    rows = [[0] * gap + list(request.prompt) for request, gap in padded]
    masks = [[0] * gap + [1] * len(request.prompt) for request, gap in padded]
    device, ends = loaded.model.device, end_tokens(loaded)
    choose = _Choose(requests)
    finished = _Finished(requests, loaded.tokenizer, ends)
    output = loaded.model.generate(
        input_ids=torch.tensor(rows, device=device),
        attention_mask=torch.tensor(masks, device=device),
        past_key_values=cache,
        do_sample=False,  # what is drawn is drawn by `choose`
        max_new_tokens=max(request.limit for request in requests),
        eos_token_id=sorted(ends) or None,
        pad_token_id=loaded.tokenizer.pad_token_id or loaded.tokenizer.eos_token_id or 0,
        logits_processor=[choose],
        stopping_criteria=[finished],
    )
    fresh = output[:, len(rows[0]) :].tolist()
    return [
        Answer(tuple(tokens[:length]), "stop" if stopped else "max_tokens", tuple(scores[:length]))
        for tokens, length, stopped, scores in zip(
            fresh, finished.lengths, finished.stopped, choose.scores, strict=True
        )
    ]


def greedy_answers(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    limit: int,
    advance: Callable[[int], None] = lambda _prompts: None,
) -> list[tuple[int, ...]]:
    """What the model, as it stands, goes on with: at most `limit` tokens, up to an end of text.

    Args:
        loaded: the model.
        prompts: token ids.
        limit: tokens of an answer; the end of text is the last of them where it comes.
        advance: told the number of prompts answered.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    start = 0
    while start < len(order):
        size = max(1, TOKENS_A_BATCH // (len(prompts[order[start]]) + limit))
        batch = order[start : start + size]
        given = generate(loaded, [Request(tuple(prompts[index]), limit) for index in batch])
        for index, answer in zip(batch, given, strict=True):
            answers[index] = answer.tokens
        advance(len(batch))
        start += size
    return answers


def gaps(requests: Sequence[Request]) -> list[int]:
    """Pads before each prompt, so that all end in one column."""
    width = max(len(request.prompt) for request in requests)
    return [width - len(request.prompt) for request in requests]


def end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end a text: the generation configuration's and the tokenizer's."""
    told: int | list[int | None] | None = loaded.model.generation_config.eos_token_id
    found = told if isinstance(told, list) else [told]
    both = (*found, loaded.tokenizer.eos_token_id)
    return frozenset(int(token) for token in both if token is not None)


def positions(loaded: LoadedModel) -> int | None:
    """Tokens that the model can read at once, where its configuration tells."""
    most = getattr(loaded.model.config, "max_position_embeddings", None)
    return None if most is None else int(most)


class _Choose(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Leaves the logits of greedy requests; makes the largest of others a draw.

    argmax(z / T - log e) with independent e ~ Exp(1) is a draw from softmax(z / T) (the Gumbel-max
    trick; Gumbel 1954), so that each request can draw from a generator of its own.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._generators: dict[int, torch.Generator] = {}
        self.scores: list[list[ScoredToken]] = [[] for _ in requests]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        rows = [row for row, request in enumerate(self._requests) if request.sampling is not None]
        chosen = scores.clone() if rows else scores
        if rows:
            settings = [self._requests[row].sampling for row in rows]
            generators = [self._generator(row, scores.device) for row in rows]
            chosen[rows] = _draw(scores[rows], list(filter(None, settings)), generators)
        for row, request in enumerate(self._requests):
            if request.top_logprobs is not None:
                token = int(chosen[row].argmax())
                self.scores[row].append(_scored(scores[row], token, request.top_logprobs))
        return chosen

    def _generator(self, row: int, device: torch.device) -> torch.Generator:
        sampling = self._requests[row].sampling
        if row not in self._generators and sampling is not None:
            self._generators[row] = torch.Generator(device).manual_seed(sampling.seed)
        return self._generators[row]


def _draw(
    logits: Tensor, settings: Sequence[Sampling], generators: Sequence[torch.Generator]
) -> Tensor:
    """Logits [rows, vocabulary] whose largest is the token drawn, each row by its own generator."""
    noise = torch.empty_like(logits)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return _kept(logits, settings) - noise.log()


def _kept(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Divide by the temperature, and leave out what `top_k` and `top_p` leave out."""
    rows: dict[tuple[float, int | None, float | None], list[int]] = defaultdict(list)
    for row, one in enumerate(settings):
        rows[one.temperature, one.top_k, one.top_p].append(row)
    kept = torch.empty_like(logits)
    for (temperature, top_k, top_p), own in rows.items():
        warped = TemperatureLogitsWarper(float(temperature))(None, logits[own])
        if top_k:
            warped = TopKLogitsWarper(top_k)(None, warped)
        if top_p is not None and top_p < 1:
            warped = TopPLogitsWarper(top_p)(None, warped)
        kept[own] = warped
    return kept


def _scored(logits: Tensor, token: int, top: int) -> ScoredToken:
    logprobs = logits.float().log_softmax(-1)
    values, tokens = logprobs.topk(top) if top else (logprobs[:0], logprobs[:0].long())
    likeliest = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return ScoredToken(token, float(logprobs[token]), likeliest)


class _Finished(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Ends each text at its own limit or stop string; the batch goes on for the others.

    Looks for a stop string in the text of the last tokens, and only where one is there in the whole
    answer, so that a text counts as stopped exactly where it will be cut: a tokenizer that tidies
    the beginning of what it decodes may find in a tail what is not in the text.
    """

    def __init__(
        self, requests: Sequence[Request], tokenizer: Tokenizer, ends: frozenset[int]
    ) -> None:
        self._requests, self._tokenizer, self._ends = requests, tokenizer, ends
        self._tokens: list[list[int]] = [[] for _ in requests]
        self._starts = [None if request.after else 0 for request in requests]
        self.lengths: list[int | None] = [None] * len(requests)
        self.stopped = [False] * len(requests)

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        del scores
        for row, token in enumerate(input_ids[:, -1].tolist()):
            self._tokens[row].append(token)
            if self.lengths[row] is None:
                self._look(row, self._tokens[row])
        done = [length is not None for length in self.lengths]
        return torch.tensor(done, device=input_ids.device)

    def _look(self, row: int, tokens: list[int]) -> None:
        request = self._requests[row]
        if request.stops and self._starts[row] is not None:
            tail = 4 * max(map(len, request.stops)) + 8  # at most four tokens a character
            begin = self._starts[row] or 0
            last = max(begin, len(tokens) - tail)
            self.stopped[row] = holds_stop(self._tokenizer, tokens[last:], request) and (
                last == begin or holds_stop(self._tokenizer, tokens[begin:], request)
            )
        if request.after and tuple(tokens[-len(request.after) :]) == request.after:
            self._starts[row] = len(tokens)
        self.stopped[row] |= tokens[-1] in self._ends
        if self.stopped[row] or len(tokens) >= request.limit:
            self.lengths[row] = len(tokens)
