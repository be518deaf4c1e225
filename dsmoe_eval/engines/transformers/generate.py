"""Generation of answers in one batch to requests whose settings may all differ.

Each request keeps its random generator, its limit and its stop strings, so the other requests of
the batch change no more than the last bits of its logits. Rows that are finished leave the batch:
transformers' `generate` pauses, and goes on with the other rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.utils import ModelOutput

from ...models.loading import LoadedModel
from ..generation import ModelGeneration, model_generation
from ..requests import Answer, Request, ScoredToken
from .next_tokens import log_probabilities
from .shared_prefix_forward import cache_argument
from .stops import Stops

_GROUPED, _KEPT = "grouped_mm", "dsmoe_grouped_mm"
ALL_EXPERTS_FUNCTIONS.register(_KEPT, ALL_EXPERTS_FUNCTIONS[_GROUPED])
SELECTIONS_PER_EXPERT = 3
"""Selections per expert and step from which grouped products are kept in decoding.

On an H200, with 64 experts of which 8 are selected, they were measured faster above 21 rows, which
is 2.6 selections per expert: 24.8 ms per step against 21.1 with 16 rows, 28.7 against 59.9 with 64.
"""


@torch.no_grad()
def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    cache: DynamicCache | None = None,
    room: int | None = None,
) -> list[Answer]:
    """Answer requests in one batch, with the model's present weights and steering.

    Args:
        loaded: the model.
        requests: at least one; prompt and limit fit into the model's positions.
        cache: keys and values of the first columns of these prompts, padded on the left by `gaps`;
            see `shared_prefix_forward.grown_from`.
        room: limit of prompt tokens per forward pass; None for all prompts in one pass. It has no
            effect behind a cache.
    """
    model, ends = loaded.model, sorted(end_tokens(loaded))
    ids, mask = _padded(model, requests)
    choose = _Choose(model, requests, ends)
    stops = Stops(requests, loaded.tokenizer, ends, model.device)
    fixed = {
        "do_sample": False,  # `choose` does the sampling
        "pad_token_id": loaded.tokenizer.pad_token_id or loaded.tokenizer.eos_token_id or 0,
        "logits_processor": [choose] if choose.acts else [],
        "stopping_criteria": [stops],
        "return_dict_in_generate": True,
    }
    columns = None if room is None or ids.numel() <= room else max(1, room // len(ids))
    while True:
        with _without_defaults(model), _experts_for(model, len(ids)):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                **{cache_argument(model): cache},
                max_new_tokens=stops.steps_left(),
                prefill_chunk_size=columns if cache is None else None,
                **fixed,
            )
        rows = stops.read(output.sequences)
        if not rows:
            break
        ids, mask, cache = _without_finished(output, mask, rows, stops, choose)
    return [
        Answer(tuple(tokens), "stop" if stopped else "max_tokens", tuple(scores[: len(tokens)]))
        for tokens, stopped, scores in zip(
            stops.tokens, stops.stopped, choose.scored(), strict=True
        )
    ]


def _without_finished(
    output: ModelOutput, mask: Tensor, rows: list[int], stops: Stops, choose: _Choose
) -> tuple[Tensor, Tensor, DynamicCache]:
    """Return tokens, mask and cache of the rows that go on; of all where none can be dropped."""
    ids, cache = output.sequences, output.past_key_values
    if not _selects_rows(cache):
        stops.pauses, rows = False, list(range(len(ids)))
    kept = torch.tensor(rows, device=ids.device)
    if stops.pauses:
        cache.batch_select_indices(kept)
    mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], dim=1)
    stops.keep(rows)
    choose.keep(stops.places)
    return ids[kept], mask[kept], cache


def gaps(requests: Sequence[Request]) -> list[int]:
    """Return the number of pads before each prompt, so that all prompts end in one column."""
    width = max(len(request.prompt) for request in requests)
    return [width - len(request.prompt) for request in requests]


def generation_of(loaded: LoadedModel) -> ModelGeneration:
    """Return the ends of text and the decoding settings of the checkpoint."""
    return model_generation(loaded.model.generation_config.to_diff_dict(), loaded.tokenizer)


def end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """Return the tokens that end a text, by the generation configuration or the tokenizer."""
    ends = loaded.model.generation_config.eos_token_id  # all settings would take long to read
    return frozenset(model_generation({"eos_token_id": ends}, loaded.tokenizer).ends)


def _padded(model: PreTrainedModel, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """Return the prompts' tokens and their mask, [requests, longest], padded on the left."""
    padded = list(zip(requests, gaps(requests), strict=True))
    ids = [[0] * gap + list(request.prompt) for request, gap in padded]
    mask = [[0] * gap + [1] * len(request.prompt) for request, gap in padded]
    return torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)


def _selects_rows(cache: object) -> bool:
    """Return whether rows can be dropped from a cache: from states of linear attention they cannot.

    These have no method for it in transformers 5.19.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return isinstance(cache, DynamicCache) and all(type(one) in kinds for one in cache.layers)


@contextmanager
def _experts_for(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """Stop transformers from computing each token's experts separately in a large batch.

    On a GPU, `generate` replaces grouped products by ones that copy the weights of each token's
    experts. That is faster for few tokens; with more selections than experts, it reads and writes
    more than all weights. A second name of the grouped products is not replaced.
    """
    config = model.config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    selected = rows * (getattr(config, "num_experts_per_tok", None) or 0)
    keeps = (
        getattr(config, "_experts_implementation", None) == _GROUPED
        and experts is not None
        and selected >= SELECTIONS_PER_EXPERT * experts
        and _groups_in_one_kernel(model)
    )
    if keeps:
        model.set_experts_implementation(_KEPT)
    try:
        yield
    finally:
        if keeps:
            model.set_experts_implementation(_GROUPED)


def _groups_in_one_kernel(model: PreTrainedModel) -> bool:
    """Return whether torch computes grouped products in one kernel.

    It does for bfloat16 on Hopper and later. Elsewhere it copies the groups' sizes to the host in
    each layer, and calls one product per expert.
    """
    return (
        model.device.type == "cuda"
        and model.dtype == torch.bfloat16
        and torch.cuda.get_device_capability(model.device) >= (9, 0)
    )


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

    Attributes:
        acts: whether any request needs it; plain greedy answers without scores do not.
    """

    def __init__(self, model: PreTrainedModel, requests: Sequence[Request], ends: Sequence[int]):
        groups: dict[object, list[int]] = defaultdict(list)
        for place, one in enumerate(requests):
            if one.sampling is not None or one.shaping:
                how = None if one.sampling is None else replace(one.sampling, seed=0)
                size = (len(one.prompt), one.limit) if one.shaping else None
                groups[repr((how, one.shaping, size))].append(place)
        self._groups = [
            (places, _processors(model, requests[places[0]], ends)) for places in groups.values()
        ]
        self._requests, self._gaps, self._device = requests, gaps(requests), model.device
        self._generators = {
            place: torch.Generator(model.device).manual_seed(one.sampling.seed)
            for place, one in enumerate(requests)
            if one.sampling is not None
        }
        self._scores: list[list[ScoredToken]] = [[] for _ in requests]
        self._reported: list[_Reported] = []
        self.keep(range(len(requests)))
        self.acts = bool(groups or self._reported)

    def keep(self, places: Sequence[int]) -> None:
        """Set the rows of the next steps: those of the requests with these indices."""
        self.scored()
        row_of = {place: row for row, place in enumerate(places)}

        def rows(some: Iterable[int]) -> Tensor:
            found = [row_of[place] for place in some if place in row_of]
            return torch.tensor(found, dtype=torch.long, device=self._device)

        self._shaped = [
            (rows(some), self._gaps[some[0]], shape)
            for some, shape in self._groups
            if not row_of.keys().isdisjoint(some)
        ]
        drawn = [place for place in self._generators if place in row_of]
        self._drawn = rows(drawn), [self._generators[place] for place in drawn]
        reported: dict[int, list[int]] = defaultdict(list)
        for place in places:
            if (top := self._requests[place].top_logprobs) is not None:
                reported[top].append(place)
        self._reported = [_Reported(top, some, rows(some)) for top, some in reported.items()]

    def scored(self) -> list[list[ScoredToken]]:
        """Return the scores so far of all requests' tokens; they cross to the host only here."""
        for one in self._reported:
            for place, scores in one.collect():
                self._scores[place].append(scores)
        return self._scores

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = scores.clone() if self._shaped else scores
        for rows, gap, shape in self._shaped:
            chosen[rows] = shape(input_ids[rows, gap:], scores[rows])
        rows, generators = self._drawn
        if generators:
            noise = torch.empty_like(chosen[: len(generators)])
            for one, generator in zip(noise, generators, strict=True):
                one.exponential_(generator=generator)
            chosen[rows] -= noise.log_()
        for some in self._reported:
            some.note(scores, chosen)
        return chosen


class _Reported:
    """Requests whose answers get scores with one number of likeliest tokens."""

    def __init__(self, top: int, places: Sequence[int], rows: Tensor) -> None:
        self._top, self._places, self._rows = top, places, rows
        self._kept: list[tuple[Tensor, Tensor]] = []

    def note(self, scores: Tensor, chosen: Tensor) -> None:
        """Add the scores of a step, which stay on the device."""
        logprobs = log_probabilities(scores[self._rows])
        token = chosen[self._rows].argmax(-1, keepdim=True)
        values, tokens = logprobs.topk(self._top)
        values = torch.cat([logprobs.gather(-1, token), values], dim=-1)
        self._kept.append((torch.cat([token, tokens], dim=-1), values))

    def collect(self) -> Iterator[tuple[int, ScoredToken]]:
        """Yield the index of each request and its scores, step by step, and forget them."""
        kept, self._kept = self._kept, []
        if not kept:
            return
        steps = zip(*(torch.stack(part).tolist() for part in zip(*kept, strict=True)), strict=True)
        for all_tokens, all_values in steps:
            for place, tokens, values in zip(self._places, all_tokens, all_values, strict=True):
                likeliest = tuple(zip(tokens[1:], values[1:], strict=True))
                yield place, ScoredToken(tokens[0], values[0], likeliest)


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
