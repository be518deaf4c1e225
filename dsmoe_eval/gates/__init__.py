"""A policy held against a run: one verdict, from which everything that is shown follows."""

from .baseline import Baseline, changes_since
from .outputs import clear, to_junit, to_markdown, write_verdict
from .results import Result, as_result, read_result
from .verdict import Ruling, Verdict, decide

__all__ = [
    "Baseline",
    "Result",
    "Ruling",
    "Verdict",
    "as_result",
    "changes_since",
    "clear",
    "decide",
    "read_result",
    "to_junit",
    "to_markdown",
    "write_verdict",
]
