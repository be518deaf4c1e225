"""The transformers engine: scoring and generation that compute shared beginnings once."""

from .engine import TransformersEngine
from .generate import greedy_answers
from .lm import TransformersLM

__all__ = ["TransformersEngine", "TransformersLM", "greedy_answers"]
