"""plan -> cells -> samples on disk -> comparisons."""

from .compare_results import Comparison, compare
from .existence import existence_of
from .finished import FinishedRun, read_finished
from .folder import RunFolder
from .identification import identify
from .power import plan_power
from .readers import Results, Selection, read_results
from .run import prepared, run
from .trial import run_trial

__all__ = [
    "Comparison",
    "FinishedRun",
    "Results",
    "RunFolder",
    "Selection",
    "compare",
    "existence_of",
    "identify",
    "plan_power",
    "prepared",
    "read_finished",
    "read_results",
    "run",
    "run_trial",
]
