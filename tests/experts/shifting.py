"""Questions, texts and a small model in which experts matter, for shifts of all experts."""

from __future__ import annotations

from typing import Any

import torch

from dsmoe_eval.experts import OutcomeItem, PlainText, ScoredText
from dsmoe_eval.steering import Profile, steer
from dsmoe_eval.variants import build_learned_profile, get_variant

from ..conftest import make_model, profile_of


def question(seed: int, right: int = 0) -> OutcomeItem:
    """Three options of two tokens after a question of four."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.randint(2, 28, (4,), generator=draw).tolist()
    ends = torch.randint(2, 28, (3, 2), generator=draw).tolist()
    return OutcomeItem("law", tuple(ScoredText((*start, *end), 4) for end in ends), (right,))


def text(seed: int) -> PlainText:
    draw = torch.Generator().manual_seed(seed)
    return PlainText(tuple(torch.randint(2, 28, (6,), generator=draw).tolist()))


QUESTIONS = tuple(question(seed, seed % 3) for seed in range(4))
TEXTS = tuple(text(seed) for seed in range(3))


def felt_model() -> Any:
    """A model whose experts change its logits; as it is initialised, hardly anything does."""
    model = make_model("qwen3_moe")
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
        for name, weight in model.named_parameters():
            if "experts" in name:
                weight.mul_(8)
    return model


def learned_profile(model: Any, shift: torch.Tensor) -> Profile:
    """The profile that a run writes."""
    like = profile_of(model)
    return build_learned_profile(get_variant("learned-profile"), like.model, shift, like.source)


def steered(model: Any, shift: torch.Tensor) -> Any:
    return steer(model, learned_profile(model, shift))
