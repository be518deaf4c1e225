"""A model folder whose code comes with it: a router, experts and a block that nobody else has."""

from __future__ import annotations

import json
from pathlib import Path

ARCHITECTURE = "fewest_moe"
CODE = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.utils.output_capturing import OutputRecorder


class FewestConfig(LlamaConfig):
    model_type = "fewest_moe"
    few_experts: int = 6
    few_chosen: int = 2


class FewestRouter(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_experts, self.top_k = config.few_experts, config.few_chosen
        self.weight = nn.Parameter(torch.randn(config.few_experts, config.hidden_size))

    def forward(self, hidden):
        logits = nn.functional.linear(hidden, self.weight)
        weights, chosen = logits.sigmoid().topk(self.top_k)
        return logits, weights / weights.sum(-1, keepdim=True), chosen


class FewestExperts(nn.Module):
    def __init__(self, config):
        super().__init__()
        size = (config.few_experts, config.hidden_size, config.hidden_size)
        self.matrix = nn.Parameter(torch.randn(size) / config.hidden_size**0.5)

    def forward(self, hidden, chosen, weights):
        every = torch.einsum("th,eho->teo", hidden, self.matrix).tanh()
        picked = every.gather(1, chosen[..., None].expand(-1, -1, hidden.shape[-1]))
        return (picked * weights[..., None]).sum(1)


class FewestBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate, self.experts = FewestRouter(config), FewestExperts(config)
        self.shared_expert = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden):
        flat = hidden.reshape(-1, hidden.shape[-1])
        _, weights, chosen = self.gate(flat)
        return (self.experts(flat, chosen, weights) + self.shared_expert(flat)).view_as(hidden)


class FewestModel(LlamaModel):
    config_class = FewestConfig
    _can_record_outputs = {"router_logits": OutputRecorder(FewestRouter, index=0)}

    def __init__(self, config):
        super().__init__(config)
        for layer in self.layers[1:]:
            layer.mlp = FewestBlock(config)


class FewestForCausalLM(LlamaForCausalLM):
    config_class = FewestConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = FewestModel(config)
"""


def remote_folder(folder: Path) -> Path:
    """Write a folder with a configuration and its code, without weights."""
    folder.mkdir()
    (folder / "fewest.py").write_text(CODE)
    config = {
        "architectures": ["FewestForCausalLM"],
        "auto_map": {
            "AutoConfig": "fewest.FewestConfig",
            "AutoModelForCausalLM": "fewest.FewestForCausalLM",
        },
        "model_type": ARCHITECTURE, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 512, "few_experts": 6, "few_chosen": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
