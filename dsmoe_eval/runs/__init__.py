"""plan -> cells -> samples on disk -> comparisons."""

from .compare_results import Comparison, compare
from .existence import existence_of
from .folder import RunFolder
from .identification import identify
from .readers import Results, Selection, read_results
from .run import prepared, run
from .trial import run_trial

__all__ = [
    "Comparison",
    "Results",
    "RunFolder",
    "Selection",
    "compare",
    "existence_of",
    "identify",
    "prepared",
    "read_results",
    "run",
    "run_trial",
]
