"""Studies of a model's experts: existence, similarity of outputs, a trial of methods."""

from .existence import existence_of
from .trial import run_trial

__all__ = ["existence_of", "run_trial"]
