"""A small random Llama, how it is carved, and some text."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dsmoe_eval.lab.carving import CarvedShape
from dsmoe_eval.lab.distillation import Distillation

SHAPE = CarvedShape(neurons=44, shared=12, experts=8, active=3)
RECIPE = Distillation(
    steps=6, batch=4, at_once=2, looked_at=4, length=16, rank=4, learning_rate=5e-3, warmup=1
)
SEQUENCES = torch.randint(0, 64, (10, 16), generator=torch.Generator().manual_seed(3))


def dense() -> LlamaForCausalLM:
    """Return a model of two layers and 64 tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=SHAPE.neurons, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=None, tie_word_embeddings=True,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def nothing(_count: int) -> None:
    """Take the place of a progress bar."""
