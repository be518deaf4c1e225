"""Makes a configuration small by the meaning of its fields, and keeps what routing is made of.

A field is recognised by its name, or by the standard name that `attribute_map` gives it, in the
configuration and in those nested in it. Experts, top-k, groups and scoring are not changed.
"""

from __future__ import annotations

import copy
import os
import re
import traceback
from collections.abc import Callable, Iterator
from math import gcd
from typing import TYPE_CHECKING, Any

from ..steering import SteeringError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_WIDTH, _VOCABULARY, _HEADS = 64, 128, 4
_LEAST_HEAD_DIM = 8

_MOST = (
    (r"intermediate_size|ffn_hidden_size|ffn_dim$", 32),
    (r"(^|_)hidden_size$|^d_model$|^n_embd$", _WIDTH),
    (r"hidden_size_per_layer_input$|embed_dim$|latent_size$", 32),
    (r"vocab_size", _VOCABULARY),
    (r"token_id$|token_index$", _VOCABULARY - 1),
    (r"^max_position_embeddings$|^max_seq_len$|^model_max_length$|^n_positions$", 256),
    (r"rank$", 16),
    (r"^(mamba_)?(d_state|state_size)$|ssm_state_size$|^(mamba_)?chunk_size$", 16),
    (r"^first_k_dense_replace$", 1),
    (r"^num_nextn_predict_layers$|^num_kv_shared_layers$", 0),
    (r"^o_groups$|^n_groups$", _HEADS),
)
"""Most that a whole number may be, by a pattern of its name; the first pattern that fits counts."""

_KEY_HEADS = r"(num_key_value_heads|kv_n_heads|linear_num_key_heads|indexer_kv_heads)$"
_MAMBA_HEADS = r"^mamba_(n|num)_heads$"
_ALL_HEADS = r"(num_(attention_|value_)?heads|n_heads)(_per_layer)?$"
_HEAD_DIM = r"(head_dim|d_head|kv_channels|rotary_dim)$"
_DEPTH = r"^num_hidden_layers$|^n_layers?$|^num_layers$|^depth$"
_EXPERTS = r"experts|moe_block|is_moe|moe_top|moe_k$"


def shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a copy of a configuration with small widths, at its full depth.

    Args:
        config: a configuration of transformers; not changed.
    """
    small = copy.deepcopy(config)
    for part in _parts(small):
        layers = _take_layers(part)
        _shrink_fields(part, *layers.values())
        _give_layers(part, layers)
    return small


def first_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """Return a copy of a configuration with the first `layers` layers only."""
    short = copy.deepcopy(config)
    for part in _parts(short):
        depth, fields = depth_of(part), _take_layers(part)
        for name, value in list(vars(part).items()):
            if isinstance(value, list | tuple) and depth > 1 and len(value) == depth:
                setattr(part, name, value[:layers])
            elif _is_number(value) and re.search(_DEPTH, _standard(part, name)):
                setattr(part, name, min(value, layers))
        _give_layers(part, {index: one for index, one in fields.items() if int(index) < layers})
    return short


def _take_layers(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """Return the fields of single layers, by layer, and take them out of a configuration."""
    layers: dict[str, dict[str, Any]] = config.to_dict().get("per_layer_config") or {}
    if layers:
        config.per_layer_config = None
    return layers


def _give_layers(config: PreTrainedConfig, layers: dict[str, dict[str, Any]]) -> None:
    if layers:
        config.per_layer_config = layers


def depth_of(config: PreTrainedConfig) -> int:
    """Return the number of layers of a configuration; 0 if it does not say."""
    depth = getattr(config, "num_hidden_layers", None)
    return depth if isinstance(depth, int) else 0


def kinds_of(config: PreTrainedConfig) -> set[str]:
    """Return the kinds of layers, such as full and linear attention, dense and sparse."""
    depth = depth_of(config)
    lists = [getattr(config, "layer_types", None), *vars(config).values()]
    return {
        kind
        for value in lists
        if isinstance(value, list | tuple) and len(value) == depth
        for kind in value
        if isinstance(kind, str)
    }


def said_of_experts(config: PreTrainedConfig) -> dict[str, int | None]:
    """Return the fields of a configuration that are about its experts, and their values."""
    return {
        name: value
        for name, value in sorted(vars(config).items())
        if re.search(_EXPERTS, name)
        and not re.search(r"^_|token_", name)
        and (value is None or isinstance(value, int))
    }


def empty_fields(config: PreTrainedConfig, error: Exception) -> list[str]:
    """Return the fields without a value that kept transformers from building a model.

    These are the ones that the function reads in which it failed, and with one that is about
    experts all of them; or, if a router was built but is refused, the numbers of its experts.
    """
    if isinstance(error, AttributeError) and hasattr(error.obj, "to_dict"):
        return [str(error.name)]
    experts = {name for name, value in said_of_experts(config).items() if value is None}
    if isinstance(error, SteeringError):
        return sorted(name for name in experts if "shared" not in name)
    if not isinstance(error, TypeError) and "None" not in str(error):
        return []
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    frames = [code for code in frames if f"{os.sep}transformers{os.sep}" in code.co_filename]
    read = set(frames[-1].co_names) if frames else set()
    names = {
        name: _standard(part, name)
        for part in _parts(config)
        for name, value in vars(part).items()
        if value is None and not name.startswith("_")
    }
    empty = {name for name, said in names.items() if {name, said} & read}
    return sorted(empty | experts if empty & experts else empty)


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield a configuration and all that are nested in it."""
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_dict") and hasattr(value, "attribute_map"):
            yield from _parts(value)


def _shrink_fields(config: PreTrainedConfig, *layers: dict[str, Any]) -> None:
    """Make the fields of a configuration small, and the same fields of some layers."""
    names = {name: _standard(config, name) for name in vars(config)}
    dims = {name for name, meaning in names.items() if re.search(_HEAD_DIM, meaning)}
    values = [vars(config)[name] for name in dims]
    values += [value for layer in layers for name, value in layer.items() if name in dims]
    by = _divisor([value for value in values if _is_number(value) and value > 0])
    own_keys = _heads(config) == getattr(config, "num_key_value_heads", None)
    mamba = _fills_width(config)
    for name, meaning in names.items():
        change = (lambda value: value // by) if name in dims else _change(meaning, own_keys)
        if change is None:
            continue
        setattr(config, name, _changed(vars(config)[name], change))
        for layer in layers:
            if name in layer:
                layer[name] = _changed(layer[name], change)
    if mamba:
        heads, _, expand, width = (getattr(config, name) for name in (*mamba, "hidden_size"))
        setattr(config, mamba[1], expand * width // heads)


def _change(meaning: str, own_keys: bool) -> Callable[[int], int] | None:
    """Return what makes a field of a meaning small, or None if the field is kept."""
    for pattern, most in (
        (_MAMBA_HEADS, 2 * _HEADS),
        (_KEY_HEADS, _HEADS if own_keys else _HEADS // 2),
        (_ALL_HEADS, _HEADS),
        *_MOST,
    ):
        if re.search(pattern, meaning):
            return lambda value: min(value, most)
    return None


def _changed(value: Any, change: Callable[[int], int]) -> Any:
    if _is_number(value):
        return change(value)
    if isinstance(value, list) and value and all(map(_is_number, value)):
        return [change(one) for one in value]
    return value


def _divisor(dims: list[int]) -> int:
    """Return the power of two that makes head dimensions small and keeps their proportions.

    Some are sums of others, and some are equal by construction.
    """
    common = gcd(*dims) if dims else 1
    by = 1
    while common % (2 * by) == 0 and min(dims) // (2 * by) >= _LEAST_HEAD_DIM:
        by *= 2
    return by


def _fills_width(config: PreTrainedConfig) -> tuple[str, str, str] | None:
    """Return the fields of Mamba's heads if heads x dimension is the expanded width."""
    for names in (
        ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
        ("mamba_num_heads", "mamba_head_dim", "expand"),
    ):
        values: list[Any] = [getattr(config, one, None) for one in (*names, "hidden_size")]
        if None not in values and values[0] * values[1] == values[2] * values[3]:
            return names
    return None


def _standard(config: PreTrainedConfig, name: str) -> str:
    """Return the standard name of a field, by which its meaning is known."""
    names: dict[str, str] = config.attribute_map
    return next((standard for standard, own in names.items() if own == name), name)


def _heads(config: PreTrainedConfig) -> Any:
    return getattr(config, "num_attention_heads", None)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
