"""Who answers: a model in transformers or in vLLM, loaded, probed, baked."""

from .baking import BakeReport, bake
from .loading import LoadedModel, bare_config, identify_model, load_model
from .miniature import miniature
from .probing import ModelProbe, probe_model
from .vllm import VllmEngine

__all__ = [
    "BakeReport",
    "LoadedModel",
    "ModelProbe",
    "VllmEngine",
    "bake",
    "bare_config",
    "identify_model",
    "load_model",
    "miniature",
    "probe_model",
]
