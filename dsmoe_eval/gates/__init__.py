"""A policy held against a run: one verdict, from which everything that is shown follows."""

from .baseline import CHANGING, Baseline, changes_between, changes_since
from .outputs import clear, plain, to_junit, to_markdown, write_verdict
from .verdict import Ruling, Verdict, decide

__all__ = [
    "CHANGING",
    "Baseline",
    "Ruling",
    "Verdict",
    "changes_between",
    "changes_since",
    "clear",
    "decide",
    "plain",
    "to_junit",
    "to_markdown",
    "write_verdict",
]
