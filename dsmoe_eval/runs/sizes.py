"""The size of a plan's model, from its card or its folder, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..cards import Plan
from ..cards.models import BITS
from ..errors import UserError
from ..models.places import locate
from ..models.sizes import ModelSize, measure_model
from ..registry import builtin_names, load_model_card
from ..tasks.loading import most_tokens
from .plan_checks import plan_sites

_ENGINES = ("transformers", "vllm")


@dataclass(frozen=True, slots=True)
class PlannedSize:
    """What is known of a model before it is loaded.

    Attributes:
        active_parameters: the parameters that a token passes through.
        weights_gib: the size of the weights in GiB, as published or of the folder's safetensors.
        memory_gib: that of the weights in memory, by engine.
        thinking: the most tokens of an answer of a model that thinks before it answers; 0 of
            others.
    """

    active_parameters: int
    weights_gib: float
    memory_gib: Mapping[str, float]
    thinking: int = 0


def model_size(name: str, plan: Plan, limit: int | None = None) -> PlannedSize | None:
    """Return the size of a model by its card or of its folder; None if neither is here.

    vLLM computes with quantised weights as published; transformers may unpack them to 16 bits,
    where their kernels lack gradients or are not installed.

    Args:
        name: the model's name.
        plan: the plan, with its engines and its dtype.
        limit: the limit of items of a smoke test, which also limits thinking.

    Raises:
        UserError: there is no such model, or the plan's learner has no code for it.
    """
    if name not in builtin_names("models"):
        size = size_of(name, plan)
        if size is None:
            return None
        gib = size.weights_bytes / 2**30
        return PlannedSize(size.active_parameters, gib, dict.fromkeys(_ENGINES, gib))
    card = load_model_card(name)
    published, thinking = card.weights_gib, card.answer_tokens or 0
    bits = 16.0 if plan.dtype is None else BITS[plan.dtype]
    whole = card.parameters.total * bits / 8 / 2**30
    memory = (max(published, whole), published) if plan.dtype is None else (whole, whole)
    return PlannedSize(
        active_parameters=card.parameters.active,
        weights_gib=published,
        memory_gib=dict(zip(_ENGINES, memory, strict=True)),
        thinking=min(thinking, most_tokens(limit) or thinking),
    )


def size_of(name: str, plan: Plan) -> ModelSize | None:
    """Measure the model in a folder; None for one of the hub, or one that only vLLM may know.

    Raises:
        UserError: there is no such model, or the plan's learner has no code for it.
    """
    if not Path(locate(name)).is_dir():
        return None
    try:
        return measure_model(name, plan_sites(plan))
    except UserError:
        if plan.learner == "vllm":
            return None
        raise
