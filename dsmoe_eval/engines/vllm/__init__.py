"""vLLM: the engine, what its workers carry, and lm-eval's LM over it; imports no vLLM by itself."""

from .engine import VllmEngine
from .launch import EXTENSION

__all__ = ["EXTENSION", "VllmEngine"]
