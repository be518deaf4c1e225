"""One description of a run's outcome: its folder, its cells, its comparisons and their schema."""

from .finished import FinishedRun, read_finished
from .folder import RunFolder
from .schema import RunResult

__all__ = ["FinishedRun", "RunFolder", "RunResult", "read_finished"]
