"""Who answers: one protocol, and a model in transformers or in vLLM behind it."""

from .base import Engine
from .load import load_engine
from .requests import Answer, Request, Sampling

__all__ = ["Answer", "Engine", "Request", "Sampling", "load_engine"]
