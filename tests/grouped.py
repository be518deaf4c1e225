"""A small random GLM-4-MoE: sigmoid scores, groups, a correction bias, a scaled sum of weights."""

from __future__ import annotations

from typing import Any

import torch

from dsmoe_eval.steering import find_routers

EXPERTS, TOP_K, GROUPS, SCALE = 8, 2, 2, 2.5


def grouped_model(**changes: Any) -> Any:
    """Three layers, the first one dense; a token's two experts come from one of two groups."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "glm4_moe", vocab_size=64, hidden_size=32, intermediate_size=16, moe_intermediate_size=16,
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        n_routed_experts=EXPERTS, num_experts_per_tok=TOP_K, n_group=GROUPS, topk_group=1,
        routed_scaling_factor=SCALE, first_k_dense_replace=1, n_shared_experts=1,
        norm_topk_prob=True, pad_token_id=0, bos_token_id=None, eos_token_id=1, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for router in find_routers(model):
            router.weight.normal_(std=0.5, generator=generator)
            assert router.correction_bias is not None
            router.correction_bias.uniform_(0.0, 0.3, generator=generator)
    return model
