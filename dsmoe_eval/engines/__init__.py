"""Who answers: a loaded model, shown to lm-eval as an LM."""

from .loading import LoadedModel, load_model
from .probing import probe_model

__all__ = ["LoadedModel", "load_model", "probe_model"]
