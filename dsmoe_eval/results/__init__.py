"""One description of a run's outcome: its folder, its cells, its comparisons and their schema."""

from .comparisons import compare_arms
from .finished import FinishedRun, read_finished
from .folder import RunFolder, open_folder
from .schema import RunResult

__all__ = ["FinishedRun", "RunFolder", "RunResult", "compare_arms", "open_folder", "read_finished"]
