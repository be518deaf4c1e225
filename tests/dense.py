"""Small random dense models: gated and ungated FFNs, two layouts of the down projection."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsmoe_eval.lab import EMBEDDED_MODELS
from dsmoe_eval.models.loading import identify_model
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import Intervention, Profile, Sites

HIDDEN, WIDTH, LAYERS, VOCABULARY = 32, 48, 3, 64
NEURONS = Sites(kind="neurons")
DENSE = ("llama", "qwen2", "gemma", "gpt2")
DOWN = {"gpt2": "transformer.h.{}.mlp.c_proj"}
"""The name of the down projection where it is not that of Llama."""


def dense_model(kind: str, vocabulary: int = VOCABULARY, seed: int = 0, heads: int = 2) -> Any:
    """A random dense model of three layers, float32; weights so large that the FFNs matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    common: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": HIDDEN, "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": heads, "num_key_value_heads": heads,
        "head_dim": 32, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
        "initializer_range": 0.1,
    }  # fmt: skip
    if kind == "gpt2":
        common = {
            "vocab_size": vocabulary, "n_embd": HIDDEN, "n_inner": WIDTH, "n_layer": LAYERS,
            "n_head": heads, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
            "initializer_range": 0.1,
        }  # fmt: skip
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common)).eval()


def down(model: Any, kind: str, layer: int) -> Any:
    """The down projection of a layer, by its name."""
    return model.get_submodule(DOWN.get(kind, "model.layers.{}.mlp.down_proj").format(layer))


def columns(model: Any, kind: str, layer: int) -> Tensor:
    """The columns of the down projection, [neurons, hidden]."""
    weight = down(model, kind, layer).weight.detach()
    return weight if kind == "gpt2" else weight.T


def neuron_profile(
    model: Any,
    kind: str = "amplify",
    strength: float = 4.0,
    units: Iterable[int] = (0, 3),
    sites: Sites = NEURONS,
) -> Profile:
    """The same units in every layer of a dense model in memory."""
    identity = identify_model("dense", "0", model, sites)
    intervention = Intervention(kind=kind, strength=strength)  # type: ignore[arg-type]
    return trial_profile(identity, intervention, units)


def saved_dense(kind: str, folder: Path, dtype: torch.dtype = torch.float32, heads: int = 2) -> Any:
    """A dense model on disk with the tokenizer of lab-poly."""
    vocabulary = 256
    model = dense_model(kind, vocabulary, heads=heads).to(dtype)
    model.save_pretrained(folder)
    for path in EMBEDDED_MODELS["lab-poly"].glob("token*"):
        shutil.copyfile(path, folder / path.name)
    return model
