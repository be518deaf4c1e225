"""Random models to time, what a token costs them at least, and what the machine can do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dsmoe_eval
from dsmoe_eval.models.probing import trial_profile
from dsmoe_eval.steering import (
    Intervention,
    ModelIdentity,
    Profile,
    describe_scoring,
    find_routers,
)

LAB_POLY = Path(dsmoe_eval.__file__).parent / "lab" / "lab_poly"
RANDOM_MODEL = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 64,
    "num_experts_per_tok": 8, "moe_intermediate_size": 256, "norm_topk_prob": True,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What each token costs at least: 2 FLOP a weight, and each weight read once from memory."""

    body: int
    active_body: int
    head: int
    width: int

    def floor(self, tokens: int) -> tuple[float, float]:
        """GFLOP and GB of a forward that gives one token's logits, attention scores left out."""
        body = self.active_body if tokens == 1 else self.body
        flop = 2 * (tokens * self.active_body + self.head)
        return flop / 1e9, (body + self.head) * self.width / 1e9


@dataclass(frozen=True)
class Subject:
    """What is known of a random model; the model itself has to leave memory before vLLM's come."""

    name: str
    dtype: torch.dtype
    size: Size
    channel: str


def build(config: Any, name: str, device: str) -> tuple[Subject, Any]:
    """A model with random weights, made on the device itself, and what is known of it."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    router = find_routers(model.eval())[0]
    routed = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    head = model.get_output_embeddings().weight.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    body = sum(p.numel() for p in model.parameters()) - (1 if tied else 2) * head
    size = Size(body, body - routed + routed * router.top_k // router.experts, head, dtype.itemsize)
    channel = "score" if describe_scoring(router).correction_bias else "logit"
    return Subject(name, dtype, size, channel), model


def profile_of(identity: ModelIdentity, kind: str, channel: str, strength: float) -> Profile:
    """Every eighth expert of every layer; a score is a probability, and shifted by less."""
    channel = channel if kind == "bias" else "logit"
    strength /= 100 if channel == "score" else 1
    strength = min(strength, 1.0) if kind == "mask" else strength
    intervention = Intervention(kind=kind, channel=channel, strength=strength)
    return trial_profile(identity, intervention, range(0, identity.experts, 8))


def save(model: Any, folder: Path, class_name: str | None) -> None:
    """Write the model for vLLM, which knows some architectures by another class name."""
    model.save_pretrained(folder)
    if class_name:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | {"architectures": [class_name]}
        path.write_text(json.dumps(config))


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of `work`, the device's queue empty before and after."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def machine(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """GFLOP/s of a square product and GB/s of a matrix-vector product: what this machine can do."""
    width = 8192 if device == "cuda" else 2048
    square = torch.randn(width, width, device=device, dtype=dtype)
    tall = torch.randn(64 * 2**20 // 1024, 1024, device=device, dtype=dtype)
    product = min(timed(lambda: square @ square, device) for _ in range(5))
    read = min(timed(lambda: tall @ tall[0], device) for _ in range(5))
    return 2 * width**3 / product / 1e9, tall.numel() * tall.element_size() / read / 1e9


def free_memory(device: str) -> int:
    """Bytes."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
