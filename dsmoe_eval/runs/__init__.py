"""plan -> cells -> samples on disk -> comparisons."""

from .folder import RunFolder
from .identification import identify
from .run import prepared, run
from .trial import run_trial

__all__ = ["RunFolder", "identify", "prepared", "run", "run_trial"]
