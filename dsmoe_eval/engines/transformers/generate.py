"""Generation of answers in one batch to requests whose settings may all differ.

Each request keeps its random generator, its limit and its stop strings, so the other requests of
the batch change no more than the last bits of its logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
)
from transformers.cache_utils import DynamicCache

from ...experts.tokenizer import Tokenizer
from ...models.loading import LoadedModel
from ..generation import ModelGeneration, model_generation
from ..requests import Answer, Request, ScoredToken, holds_stop
from .next_tokens import log_probabilities
from .shared_prefix_forward import cache_argument

TOKENS_A_BATCH = 8192
"""Limit of tokens per batch of greedy answers."""


@torch.no_grad()
def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    cache: DynamicCache | None = None,
) -> list[Answer]:
    """Answer requests in one batch, with the model's present weights and steering.

    Args:
        loaded: the model.
        requests: at least one; prompt and limit fit into the model's positions.
        cache: keys and values of the first columns of these prompts, padded on the left by `gaps`;
            see `shared_prefix_forward.grown_from`.
    """
    padded = list(zip(requests, gaps(requests), strict=True))
    rows = [[0] * gap + list(request.prompt) for request, gap in padded]
    masks = [[0] * gap + [1] * len(request.prompt) for request, gap in padded]
    model, ends = loaded.model, sorted(end_tokens(loaded))
    choose = _Choose(model, requests, ends)
    finished = _Finished(requests, loaded.tokenizer, frozenset(ends))
    with _without_defaults(model):
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(masks, device=model.device),
            **{cache_argument(model): cache},
            do_sample=False,  # `choose` does the sampling
            max_new_tokens=max(request.limit for request in requests),
            eos_token_id=ends or None,
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
    """Generate greedy completions, with the model's present weights and steering.

    Args:
        loaded: the model.
        prompts: token ids.
        limit: maximum number of tokens per answer; an end of text ends an answer and is part of it.
        advance: called with the number of prompts just answered.
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
    """Return the number of pads before each prompt, so that all prompts end in one column."""
    width = max(len(request.prompt) for request in requests)
    return [width - len(request.prompt) for request in requests]


def generation_of(loaded: LoadedModel) -> ModelGeneration:
    """Return the ends of text and the decoding settings of the checkpoint."""
    return model_generation(loaded.model.generation_config.to_diff_dict(), loaded.tokenizer)


def end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """Return the tokens that end a text, by the generation configuration or the tokenizer."""
    return frozenset(generation_of(loaded).ends)


@contextmanager
def _without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Replace the generation configuration by an empty one inside the context.

    The checkpoint's configuration would change every answer.
    """
    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept


def positions(loaded: LoadedModel) -> int | None:
    """Return the model's number of positions; None if its configuration lacks it."""
    most = getattr(loaded.model.config, "max_position_embeddings", None)
    return None if most is None else int(most)


class _Choose(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """A processor that changes each request's logits so that the largest is the next token.

    It applies the request's settings, and adds random numbers if the request has sampling. Requests
    with equal settings are processed together. Settings that count earlier tokens get each prompt
    without its padding, so that an answer is the same alone and in a batch.

    argmax(z / T - log e) with independent e ~ Exp(1) is a draw from softmax(z / T) (the Gumbel-max
    trick; Gumbel 1954), so that each request can draw from a separate random generator.
    """

    def __init__(self, model: PreTrainedModel, requests: Sequence[Request], ends: Sequence[int]):
        groups: dict[object, list[int]] = defaultdict(list)
        for row, one in enumerate(requests):
            if one.sampling is not None or one.shaping:
                how = None if one.sampling is None else replace(one.sampling, seed=0)
                size = (len(one.prompt), one.limit) if one.shaping else None
                groups[repr((how, one.shaping, size))].append(row)
        self._groups = [
            (rows, _processors(model, requests[rows[0]], ends)) for rows in groups.values()
        ]
        self._requests, self._gaps = requests, gaps(requests)
        self._generators = {
            row: torch.Generator(model.device).manual_seed(one.sampling.seed)
            for row, one in enumerate(requests)
            if one.sampling is not None
        }
        self.scores: list[list[ScoredToken]] = [[] for _ in requests]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = scores.clone() if self._groups else scores
        for rows, shape in self._groups:
            chosen[rows] = shape(input_ids[rows, self._gaps[rows[0]] :], scores[rows])
        for row, generator in self._generators.items():
            chosen[row] -= torch.empty_like(chosen[row]).exponential_(generator=generator).log()
        for row, request in enumerate(self._requests):
            if request.top_logprobs is not None:
                token = int(chosen[row].argmax())
                self.scores[row].append(_scored(scores[row], token, request.top_logprobs))
        return chosen


def _processors(
    model: PreTrainedModel, request: Request, ends: Sequence[int]
) -> LogitsProcessorList:
    """Return transformers' processors for a request's settings, in transformers' order."""
    how, size = request.sampling, len(request.prompt)
    sampling = {} if how is None else {**asdict(how), "do_sample": True}
    sampling.pop("seed", None)
    config = GenerationConfig(
        max_length=size + request.limit,
        eos_token_id=[*ends] or None,
        **sampling,
        **dict(request.shaping),
    )
    model._prepare_special_tokens(config, device=model.device)
    return model._get_logits_processor(config, input_ids_seq_length=size, device=model.device)


def _scored(logits: Tensor, token: int, top: int) -> ScoredToken:
    logprobs = log_probabilities(logits)
    values, tokens = logprobs.topk(top) if top else (logprobs[:0], logprobs[:0].long())
    likeliest = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return ScoredToken(token, float(logprobs[token]), likeliest)


class _Finished(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """A criterion that ends each text of a batch at its limit, end of text or stop string.

    The batch continues for the other texts. A stop string is searched in the text of the last
    tokens first; if it is there, it must also be in the whole answer. So a text counts as stopped
    exactly where it will be cut: a tokenizer that tidies the beginning of decoded text may decode
    the last tokens to a stop string that the whole answer does not have.
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
            tail = 4 * max(map(len, request.stops)) + 8  # at most four tokens per character
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
