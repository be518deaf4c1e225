"""Models in memory: loading, miniatures, random weights, probing and baking."""

from .baking import BakeReport, bake
from .loading import (
    LoadedModel,
    SaliencyModel,
    bare_config,
    identify_model,
    load_model,
    load_saliency_model,
    load_tokenizer,
)
from .miniature import miniature
from .probing import ModelProbe, probe_model
from .random_weights import random_weights

__all__ = [
    "BakeReport",
    "LoadedModel",
    "ModelProbe",
    "SaliencyModel",
    "bake",
    "bare_config",
    "identify_model",
    "load_model",
    "load_saliency_model",
    "load_tokenizer",
    "miniature",
    "probe_model",
    "random_weights",
]
