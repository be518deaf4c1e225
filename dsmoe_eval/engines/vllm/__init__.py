"""vLLM: the engine, the extension of its workers, and lm-eval's LM; importing it loads no vLLM."""

from .launch import EXTENSION
from .steered_vllm import SteeredVllm

__all__ = ["EXTENSION", "SteeredVllm"]
