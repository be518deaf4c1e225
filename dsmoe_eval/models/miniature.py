"""A small random model of any architecture with the real router class, experts and top-k.

It shows within seconds, without weights, whether steering works on an architecture.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from ..steering import SteeringError, find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SEED = 0
_MIN_MOE_LAYERS = 2
_LAYERS = (2, 3, 4, 6, 8)
_ROUTER_STD = 0.5

_WIDTHS = {
    "hidden_size": 64,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "qk_head_dim": 32,
    "v_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
}
"""Upper bounds by common names of configurations; a name that a configuration lacks is skipped."""
_FEED_FORWARD = 32


def miniature(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build a random model of `config`'s architecture with at least two MoE layers.

    Args:
        config: a configuration of transformers; not changed. Experts, top-k, groups and scoring
            are kept; widths, depth and vocabulary are reduced.
        dtype: the model's dtype.

    Returns:
        The causal language model, in eval mode, with the same weights at each call.

    Raises:
        SteeringError: no small version could be built; the message gives the last reason.
    """
    reason = "no reason"
    for layers in _LAYERS:
        try:
            small = _shrink(config, layers)
            model = _build(small, dtype)
            if len(find_routers(model)) >= _MIN_MOE_LAYERS and _kinds(small) == _kinds(config):
                return model
            reason = "its first layers do not show every kind of layer"
        except (ValueError, TypeError, AttributeError, RuntimeError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
    raise SteeringError(
        f"no small random model of {config.model_type!r} could be built from its configuration "
        f"({reason}); probe the model itself instead"
    )


def _build(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(_SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False).eval()
    with torch.no_grad():
        for router in find_routers(model):
            # Router weights are drawn with a large spread, so that tokens differ in their experts.
            router.weight.normal_(std=_ROUTER_STD)
        model(input_ids=torch.ones(1, 4, dtype=torch.long), use_cache=False)
    return model


def _shrink(config: PreTrainedConfig, layers: int) -> PreTrainedModel:
    small = copy.deepcopy(config)
    text = small.get_text_config()
    every_head_has_its_own_keys = _heads(text) == getattr(text, "num_key_value_heads", None)
    for name, most in _WIDTHS.items():
        _cut(text, name, most)
    for name in list(vars(text)):
        if name.endswith(("intermediate_size", "ffn_hidden_size")):
            _cut(text, name, _FEED_FORWARD)
        elif name.endswith("token_id"):
            _cut(text, name, _WIDTHS["vocab_size"] - 1)
    if every_head_has_its_own_keys:
        text.num_key_value_heads = _heads(text)
    depth = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = min(depth, layers)
    return small


def _kinds(config: PreTrainedConfig) -> set[str]:
    """Return the kinds of layers, such as full and linear attention."""
    return set(getattr(config.get_text_config(), "layer_types", None) or ())


def _heads(config: PreTrainedConfig) -> int | None:
    heads: int | None = getattr(config, "num_attention_heads", None)
    return heads


def _cut(config: PreTrainedConfig, name: str, most: int) -> None:
    value = getattr(config, name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        setattr(config, name, min(value, most))
