"""The model's own greedy answers, as tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .loading import LoadedModel

TOKENS_A_BATCH = 8192


@torch.no_grad()
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
    ends, start = _ends(loaded), 0
    while start < len(order):
        size = max(1, TOKENS_A_BATCH // (len(prompts[order[start]]) + limit))
        batch = order[start : start + size]
        continued = _continue(loaded, [prompts[index] for index in batch], limit)
        for index, fresh in zip(batch, continued, strict=True):
            stop = next((place for place, token in enumerate(fresh) if token in ends), limit)
            answers[index] = tuple(fresh[: stop + 1])
        advance(len(batch))
        start += size
    return answers


def _continue(loaded: LoadedModel, prompts: list[Sequence[int]], limit: int) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    pads = [[0] * (width - len(prompt)) for prompt in prompts]
    ids = torch.tensor([[*pad, *prompt] for pad, prompt in zip(pads, prompts, strict=True)])
    mask = torch.tensor(
        [[0] * len(pad) + [1] * len(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
    )
    device = loaded.model.device
    output = loaded.model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        do_sample=False,
        max_new_tokens=limit,
        pad_token_id=loaded.tokenizer.pad_token_id or loaded.tokenizer.eos_token_id,
    )
    fresh: list[list[int]] = output[:, width:].tolist()
    return fresh


def _ends(loaded: LoadedModel) -> set[int]:
    told: Any = loaded.model.generation_config.eos_token_id
    found = told if isinstance(told, list) else [told]
    return {int(token) for token in (*found, loaded.tokenizer.eos_token_id) if token is not None}
