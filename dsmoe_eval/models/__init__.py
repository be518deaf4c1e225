"""Models in memory: loading, miniatures, random weights, probing, baking and conversion."""

from .baking import bake
from .conversion import convert
from .loading import (
    LoadedModel,
    SaliencyModel,
    bare_config,
    identify_model,
    load_model,
    load_saliency_model,
    model_folder,
)
from .miniature import miniature
from .probing import ModelProbe, probe_model
from .quantizing import (
    QuantizationProbe,
    probe_quantization,
    quantized_share,
    round_experts,
    rounded_experts,
    save_rounded,
    write_quantized,
)
from .random_weights import random_weights, shuffled_routers

__all__ = [
    "LoadedModel",
    "ModelProbe",
    "QuantizationProbe",
    "SaliencyModel",
    "bake",
    "bare_config",
    "convert",
    "identify_model",
    "load_model",
    "load_saliency_model",
    "miniature",
    "model_folder",
    "probe_model",
    "probe_quantization",
    "quantized_share",
    "random_weights",
    "round_experts",
    "rounded_experts",
    "save_rounded",
    "shuffled_routers",
    "write_quantized",
]
