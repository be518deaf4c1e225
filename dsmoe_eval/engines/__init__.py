"""The engines that run a model: one protocol, implemented with transformers and with vLLM."""

from .base import Engine
from .load import load_engine
from .requests import Answer, Request, Sampling

__all__ = ["Answer", "Engine", "Request", "Sampling", "load_engine"]
