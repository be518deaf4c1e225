"""The facts about a model in vLLM that are known before it is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from vllm.config import VllmConfig


@dataclass(frozen=True, slots=True)
class VllmFacts:
    """The facts on which numbers may depend, and the limit of a text.

    Attributes:
        config: the model's configuration.
        max_length: the limit of prompt and answer together, in tokens; an answer has at least one
            token. Before the start it is the model's, and later perhaps lower: what the cache has
            room for.
        settings: the distribution over devices, and whether the model is run eagerly.
        version: the version of vLLM.
        generation: the settings of the checkpoint's generation_config.json that differ from the
            defaults.
    """

    config: PreTrainedConfig
    dtype: torch.dtype
    max_length: int
    device: str
    settings: dict[str, int | bool | str]
    version: str
    generation: dict[str, object]


def read_facts(config: VllmConfig) -> VllmFacts:
    """Read the facts from the configuration of an engine, started or not."""
    from vllm import __version__

    return VllmFacts(
        config=config.model_config.hf_config,
        dtype=config.model_config.dtype,
        max_length=int(config.model_config.max_model_len),
        device=str(config.device_config.device_type),
        settings={
            "tensor_parallel": config.parallel_config.tensor_parallel_size,
            "expert_parallel": config.parallel_config.enable_expert_parallel,
            "eager": bool(config.model_config.enforce_eager),
        },
        version=__version__,
        generation=config.model_config.try_get_generation_config(),
    )
