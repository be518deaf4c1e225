"""Studies of a model's experts: existence, similarity of outputs, a trial of methods."""

from .emergence import emergence
from .existence_maps import existence_maps
from .influence import Shift, influence_study
from .keep import KeepGrid, keep_curves
from .simsmoe import SimsmoePlan, simsmoe
from .trial import run_trial

__all__ = [
    "KeepGrid",
    "Shift",
    "SimsmoePlan",
    "emergence",
    "existence_maps",
    "influence_study",
    "keep_curves",
    "run_trial",
    "simsmoe",
]
