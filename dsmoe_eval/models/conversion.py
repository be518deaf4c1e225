"""EMO's checkpoints, which only remote code can run, as the same models of Qwen2-MoE's code.

EMO and its standard twins (arXiv 2605.06663) are pre-norm transformers with rotary attention. Of a
layer's N experts the last one is shared. The router weights the others by a softmax over N - 1
logits, k - 1 of them are selected, and their weights are not renormalised; the weight of the shared
one is the softmax over its logit alone, which is 1, so that its row of the router has no
effect. Qwen2-MoE has all that, but weights its shared expert by sigmoid(w x): with w = 0 that is
1/2, and the shared expert's down projection is doubled. Both factors are powers of two, which no
format rounds. Its queries, keys and values have biases, which are zero here; vLLM would not do
without them. Read from allenai/EMO, commit fb07783, src/hf_trust_remote_code/emo.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import damage, new_folder, read_json, write_json
from .folder_checks import check_weights, read_config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CONVERTIBLE = "emo"
"""The `model_type` that `convert` reads."""
_KEPT = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "rope_theta",
    "tie_word_embeddings",
)  # fmt: skip
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_READ = ("intermediate_size", "num_experts", "num_experts_per_tok", "num_shared_experts")
_OFF = (
    "attention_bias", "norm_topk_prob", "rope_scaling", "num_experts_per_layer",
    "num_shared_experts_per_layer", "always_active_experts", "always_active_experts_per_layer",
)  # fmt: skip
_INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"(model\.layers\.\d+\.)(.+)")
_NORMS = {
    "pre_attention_layernorm.weight": "input_layernorm.weight",
    "pre_feedforward_layernorm.weight": "post_attention_layernorm.weight",
}
_BIASED = tuple(f"self_attn.{one}_proj.weight" for one in "qkv")


def convert(source: Path, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint of EMO as one of Qwen2-MoE that computes the same.

    Args:
        source: the folder with EMO's config.json and safetensors.
        folder: the folder to write; it must not exist.
        dtype: the dtype of the new weights, which rounds them; None keeps the published one.

    Raises:
        UserError: the folder exists, or `source` is no such checkpoint or a damaged one.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already; convert into a new folder")
    config = read_config(str(source), str(source))
    converted = convert_config(config, str(source / "config.json"))
    check_weights(source)
    shards = sorted(source.glob("*.safetensors"))
    if not shards:
        raise UserError(f"{source}: holds no *.safetensors; download the model's weights")
    if dtype is not None:
        converted["dtype"] = str(dtype).removeprefix("torch.")
    with new_folder(folder) as draft:
        places, size = dict[str, str](), 0
        for path in shards:
            written, size_of = _write_shard(path, draft / path.name, config, dtype)
            places |= dict.fromkeys(written, path.name)
            size += size_of
        _check_complete(source, config, places)
        if len(shards) > 1:
            write_json(draft / _INDEX, {"metadata": {"total_size": size}, "weight_map": places})
        for path in source.iterdir():
            if path.suffix in (".json", ".txt") and path.name not in ("config.json", _INDEX):
                shutil.copyfile(path, draft / path.name)
        write_json(draft / "config.json", converted)


def convert_config(config: Mapping[str, object], where: str) -> dict[str, object]:
    """Return the configuration of Qwen2-MoE for one of EMO.

    Args:
        config: EMO's, as in its config.json.
        where: what was read, for the messages.

    Raises:
        UserError: it is of another architecture, lacks a key, or has a part that Qwen2-MoE lacks.
    """
    if config.get("model_type") != CONVERTIBLE:
        raise UserError(
            f"{where}: model_type is {config.get('model_type')!r}; only {CONVERTIBLE!r} is "
            "converted, and a model that transformers implements needs no conversion"
        )
    if missing := [key for key in (*_KEPT, *_READ) if key not in config]:
        raise UserError(f"{where}: lacks {', '.join(missing)}; download the file again")
    if on := [key for key in _OFF if config.get(key)]:
        raise UserError(f"{where}: sets {', '.join(on)}, which Qwen2-MoE has not: not convertible")
    width, experts, top_k, shared = (_whole(config, key, where) for key in _READ)
    if shared != 1:
        # Several shared experts are weighted by a softmax over their logits: no constant.
        raise UserError(f"{where}: num_shared_experts is {shared}; only 1 can be converted")
    if top_k <= shared:
        raise UserError(f"{where}: num_experts_per_tok is {top_k}, so no expert is chosen; need 2")
    kept = {key: config[key] for key in (*_KEPT, *_IDS) if key in config}
    return kept | {
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "dtype": config.get("dtype") or config.get("torch_dtype") or "float32",
        "intermediate_size": width,  # of dense layers, which there are none of
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": width,
        "num_experts": experts - 1,
        "num_experts_per_tok": top_k - 1,
        "norm_topk_prob": False,
        "qkv_bias": True,
        "decoder_sparse_step": 1,
        "use_sliding_window": False,
    }


def _whole(config: Mapping[str, object], key: str, where: str) -> int:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: {key} is {value!r:.60}, and should be a whole number")
    return value


def _write_shard(
    source: Path, target: Path, config: Mapping[str, object], dtype: torch.dtype | None
) -> tuple[list[str], int]:
    """Convert a shard; return the names of its weights and their size in bytes."""
    from safetensors.torch import load_file, save_file

    last = _whole(config, "num_experts", str(source)) - 1
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(source).items():
        for new, value in _converted(name, weight, last, source):
            tensors[new] = (value if dtype is None else value.to(dtype)).contiguous()
    save_file(tensors, target, metadata={"format": "pt"})
    return list(tensors), sum(tensor.nbytes for tensor in tensors.values())


def _converted(name: str, weight: Tensor, last: int, source: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of Qwen2-MoE that a weight of EMO becomes; see the module."""
    found = _LAYER.fullmatch(name)
    if found is None:
        yield name, weight
        return
    layer, part = found.groups()
    if part == "mlp.gate.weight":
        if len(weight) != last + 1:
            raise UserError(
                f"{source}: {name} has {len(weight)} rows, and config.json has num_experts "
                f"{last + 1}; download both again"
            )
        yield name, weight[:last].clone()
        yield f"{layer}mlp.shared_expert_gate.weight", weight.new_zeros(1, weight.shape[1])
    elif part.startswith(f"mlp.experts.{last}."):
        matrix = part.removeprefix(f"mlp.experts.{last}.")
        factor = 2 if matrix == "down_proj.weight" else 1
        yield f"{layer}mlp.shared_expert.{matrix}", weight * factor
    else:
        yield layer + _NORMS.get(part, part), weight
        if part in _BIASED:
            yield f"{layer}{part.removesuffix('weight')}bias", weight.new_zeros(len(weight))


def _check_complete(source: Path, config: Mapping[str, object], written: Mapping[str, str]) -> None:
    """Check that no shard is missing: the index names them all, and every layer has a router."""
    index, listed = source / _INDEX, set[str]()
    if index.is_file():
        with damage(index):
            listed = set(read_json(index)["weight_map"].values())
    absent = sorted(listed - set(written.values()))
    layers = range(_whole(config, "num_hidden_layers", str(source)))
    absent += [
        name for layer in layers if (name := f"model.layers.{layer}.mlp.gate.weight") not in written
    ]
    if absent:
        raise UserError(f"{source}: lacks {', '.join(absent[:3])}; download the model again")
