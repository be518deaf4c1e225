"""Studies of a model's experts: existence, similarity of outputs, a trial of methods."""

from .existence import existence_of
from .influence import Shift, influence_study
from .keep import KeepGrid, keep_curves
from .trial import run_trial

__all__ = ["KeepGrid", "Shift", "existence_of", "influence_study", "keep_curves", "run_trial"]
