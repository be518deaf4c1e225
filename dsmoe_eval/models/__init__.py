"""Models in memory: loading, miniatures, random weights, probing and baking."""

from .baking import bake
from .loading import (
    LoadedModel,
    SaliencyModel,
    bare_config,
    identify_model,
    load_model,
    load_saliency_model,
)
from .miniature import miniature
from .probing import ModelProbe, probe_model
from .random_weights import random_weights, shuffled_routers

__all__ = [
    "LoadedModel",
    "ModelProbe",
    "SaliencyModel",
    "bake",
    "bare_config",
    "identify_model",
    "load_model",
    "load_saliency_model",
    "miniature",
    "probe_model",
    "random_weights",
    "shuffled_routers",
]
