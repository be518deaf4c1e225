"""Pruning: a model without the experts that a profile masks, smaller and with the same logits.

An expert whose logit is -inf is never selected and takes no part in the weights of the others, so
slicing its weights, its row of the router and its correction bias out changes nothing. transformers
and vLLM have one number of experts for all layers, and groups of one size.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..steering import Profile, Router, SteeringError, find_routers
from .loading import model_config
from .places import locate
from .shrinking import said_of_experts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_NOT_ROUTED = re.compile(r"per_tok|top_?k|_k$|shared|group|zero")
"""Fields about experts that do not give the number of those that can be chosen."""
_WAY_OUT = "steer by the profile instead, which is the same model at full size"


def choice_groups(name: str) -> int:
    """Return the number of groups from which a model's routers choose, 1 if there are none.

    Args:
        name: as for `load_model`.

    Raises:
        UserError: there is no model of that name, or its configuration cannot be read.
    """
    config = model_config(name, locate(name)).get_text_config()
    return int(getattr(config, "n_group", None) or 1)


def kept_by_layer(profile: Profile) -> dict[int, list[int]]:
    """Return the experts of each layer that a profile of kind `mask` does not mask.

    Raises:
        SteeringError: it is of another kind, or layers keep different numbers of experts.
    """
    if profile.intervention.kind != "mask" or profile.is_null:
        raise SteeringError("only a profile that masks experts can be pruned into a checkpoint")
    masked = {(one.layer, one.expert) for one in profile.experts}
    kept = {
        layer: [one for one in range(profile.model.experts) if (layer, one) not in masked]
        for layer in profile.model.layers
    }
    numbers = Counter(len(experts) for experts in kept.values())
    if len(numbers) > 1:
        raise SteeringError(
            f"the profile keeps {min(numbers)} to {max(numbers)} experts of a layer, and a "
            "checkpoint has one number for all: mask as many in each layer, as "
            f"`identify --keep` does, or {_WAY_OUT}"
        )
    return kept


def slice_experts(
    model: PreTrainedModel, profile: Profile
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Return the model without the experts that a profile masks, to be saved, and what was sliced.

    Tensors that have no axis of experts are those of `model`. Buffers that are not saved have no
    memory: load the saved model to run it.

    Raises:
        SteeringError: the profile or the architecture does not allow it.
    """
    kept = kept_by_layer(profile)
    number = len(next(iter(kept.values())))
    _check_groups(model, kept)
    with torch.device("meta"):
        small = type(model)(_with_experts(model.config, profile.model.experts, number))
    _check_routers(find_routers(model), find_routers(small), number)
    given, state, sliced = model.state_dict(), {}, []
    for name, wanted in small.state_dict().items():
        experts = kept.get(_layer_of(name), [])
        state[name] = given[name]
        if wanted.shape != given[name].shape:
            state[name] = _sliced(name, given[name], wanted.shape, experts, profile.model.experts)
            sliced.append(name)
    small.load_state_dict(state, assign=True)
    small.tie_weights()
    return small, tuple(sliced)


def _check_groups(model: PreTrainedModel, kept: Mapping[int, Sequence[int]]) -> None:
    groups = int(getattr(model.config.get_text_config(), "n_group", None) or 1)
    size = find_routers(model)[0].experts // groups
    for layer, experts in kept.items():
        numbers = Counter(expert // size for expert in experts)
        if len(numbers) < groups or len(set(numbers.values())) > 1:
            raise SteeringError(
                f"layer {layer}: the groups keep {[numbers[one] for one in range(groups)]} "
                f"experts, and a checkpoint has groups of one size; {_WAY_OUT}"
            )


def _with_experts(config: PreTrainedConfig, before: int, number: int) -> PreTrainedConfig:
    """Return a copy of a configuration with another number of experts."""
    changed = copy.deepcopy(config)
    part = changed.get_text_config()
    fields = [
        name
        for name, value in said_of_experts(part).items()
        if value == before and not _NOT_ROUTED.search(name)
    ]
    if not fields:
        raise SteeringError(f"the configuration does not give the {before} experts; {_WAY_OUT}")
    for name in fields:
        setattr(part, name, number)
    return changed


def _check_routers(before: Sequence[Router], after: Sequence[Router], number: int) -> None:
    shapes = [(one.layer, number, one.top_k) for one in before]
    if [(one.layer, one.experts, one.top_k) for one in after] != shapes:
        raise SteeringError(f"this architecture cannot be built with {number} experts; {_WAY_OUT}")


def _layer_of(name: str) -> int:
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _sliced(
    name: str, source: Tensor, shape: Sequence[int], experts: Sequence[int], before: int
) -> Tensor:
    """Return a tensor with the rows of some experts, along its one axis that becomes shorter."""
    axes = [at for at, (a, b) in enumerate(zip(source.shape, shape, strict=True)) if a != b]
    at = axes[0]
    rows = source.shape[at] // before
    if len(axes) > 1 or source.shape[at] != rows * before or shape[at] != rows * len(experts):
        raise SteeringError(
            f"parameter {name!r} of shape {tuple(source.shape)} is not one of {before} experts of "
            f"which {len(experts)} are kept; {_WAY_OUT}"
        )
    index = torch.tensor(
        [expert * rows + row for expert in experts for row in range(rows)], device=source.device
    )
    return source.index_select(at, index)
