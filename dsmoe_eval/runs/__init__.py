"""plan -> cells -> samples on disk -> comparisons."""

from .existence import existence_of
from .folder import RunFolder
from .identification import identify
from .power import plan_power
from .results import Result, read_result
from .run import prepared, run
from .trial import run_trial

__all__ = [
    "Result",
    "RunFolder",
    "existence_of",
    "identify",
    "plan_power",
    "prepared",
    "read_result",
    "run",
    "run_trial",
]
