"""The transformers engine: scoring and generation that compute shared beginnings once."""

from .engine import TransformersServing
from .generate import greedy_answers
from .lm import TransformersLM

__all__ = ["TransformersLM", "TransformersServing", "greedy_answers"]
