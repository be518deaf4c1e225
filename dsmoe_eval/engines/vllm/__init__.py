"""vLLM: the engine, the extension of its workers, and lm-eval's LM; importing it loads no vLLM."""

from .engine import VllmEngine
from .launch import EXTENSION

__all__ = ["EXTENSION", "VllmEngine"]
