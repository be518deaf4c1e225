"""plan -> cells -> samples on disk -> comparisons."""

from .existence import existence_of
from .folder import RunFolder
from .identification import identify
from .run import prepared, run
from .trial import run_trial

__all__ = ["RunFolder", "existence_of", "identify", "prepared", "run", "run_trial"]
