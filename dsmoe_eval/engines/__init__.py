"""Who answers: a model in transformers or in vLLM, loaded, probed, baked."""

from .answers import greedy_answers
from .baking import BakeReport, bake
from .loading import (
    LoadedModel,
    Reader,
    bare_config,
    identify_model,
    load_model,
    load_reader,
    load_tokenizer,
)
from .miniature import miniature
from .probing import ModelProbe, probe_model
from .random_weights import random_weights
from .vllm import VllmEngine

__all__ = [
    "BakeReport",
    "LoadedModel",
    "ModelProbe",
    "Reader",
    "VllmEngine",
    "bake",
    "bare_config",
    "greedy_answers",
    "identify_model",
    "load_model",
    "load_reader",
    "load_tokenizer",
    "miniature",
    "probe_model",
    "random_weights",
]
