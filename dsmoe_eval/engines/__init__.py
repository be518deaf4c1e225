"""Who answers: one protocol, and a model in transformers or in vLLM behind it."""

from .base import Serving
from .load import load_serving
from .requests import Answer, Request, Sampling

__all__ = ["Answer", "Request", "Sampling", "Serving", "load_serving"]
