"""Configurations of MoE types whose defaults in transformers cannot be built or have no experts."""

from typing import Any

# What the defaults leave empty or switch off, as published models have it.
COMPLETED: dict[str, dict[str, Any]] = {
    "dbrx": {
        "attn_config": {"rope_theta": 5e5, "kv_n_heads": 8, "clip_qkv": 8},
        "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4, "ffn_hidden_size": 10752},
    },
    "deepseek_v2": {"num_experts_per_tok": 6},
    "doge": {"is_moe": True},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "gemma4_text": {
        "enable_moe_block": True, "num_experts": 128, "top_k_experts": 8,
        "moe_intermediate_size": 704,
    },
    "hunyuan_v1_moe": {"num_experts": 64, "moe_topk": 8, "head_dim": 128},
    "lfm2_moe": {"num_hidden_layers": 24, "layer_types": ["conv", "conv", "full_attention"] * 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 128,
        "indexer_budget": 2048, "indexer_compress_ratio": 4,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25
        },
    },
}  # fmt: skip
COMPLETED |= {name: {"text_config": COMPLETED[f"{name}_text"]} for name in ("gemma4", "qwen4_exp")}
