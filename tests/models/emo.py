"""Checkpoints of EMO (arXiv 2605.06663) with drawn weights, in the files of its authors' code."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

EXPERTS, TOP_K, HIDDEN, WIDTH, VOCABULARY = 128, 8, 32, 8, 64
CONFIG = {
    "architectures": ["EmoForCausalLM"],
    "attention_bias": False,
    "auto_map": {"AutoModelForCausalLM": "modeling_emo.EmoForCausalLM"},
    "dtype": "float32",
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 4096,
    "model_type": "emo",
    "norm_topk_prob": False,
    "num_attention_heads": 2,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_shared_experts": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}


def weights(vocabulary=VOCABULARY, seed=0):
    """The weights of two layers, in the names of EMO's checkpoints."""
    shapes = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for layer in ("model.layers.0.", "model.layers.1."):
        shapes |= {
            f"{layer}self_attn.{one}_proj.weight": (HIDDEN, HIDDEN) for one in ("q", "k", "v", "o")
        }
        shapes |= {
            f"{layer}pre_{one}_layernorm.weight": (HIDDEN,) for one in ("attention", "feedforward")
        }
        shapes[f"{layer}mlp.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            names = f"{layer}mlp.experts.{expert}."
            shapes |= {f"{names}{one}_proj.weight": (WIDTH, HIDDEN) for one in ("gate", "up")}
            shapes[f"{names}down_proj.weight"] = (HIDDEN, WIDTH)
    draw = np.random.RandomState(seed)
    return {
        name: torch.tensor(1 + 0.3 * draw.randn(*shape) if len(shape) == 1 else draw.randn(*shape))
        .mul(1 if len(shape) == 1 else 0.3)
        .float()
        for name, shape in shapes.items()
    }


def emo_checkpoint(folder, shards=1, seed=0, **changes):
    """Write the weights as EMO's authors do, with a config.json."""
    folder.mkdir()
    tensors = weights(changes.get("vocab_size", VOCABULARY), seed)
    names = sorted(tensors)
    places = {
        name: f"model-{index % shards + 1:05}.safetensors" for index, name in enumerate(names)
    }
    if shards == 1:
        places = dict.fromkeys(names, "model.safetensors")
    for place in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == place}
        save_file(part, folder / place, metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "modeling_emo.py").write_text("raise SystemExit('remote code was run')")
    return folder
