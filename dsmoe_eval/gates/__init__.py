"""The check of a run against a policy: one verdict, from which all outputs follow."""

from .baseline import CHANGING, Baseline, changes_between, changes_since
from .outputs import clear, conclusion, plain, to_junit, to_markdown, write_verdict
from .verdict import Verdict, decide

__all__ = [
    "CHANGING",
    "Baseline",
    "Verdict",
    "changes_between",
    "changes_since",
    "clear",
    "conclusion",
    "decide",
    "plain",
    "to_junit",
    "to_markdown",
    "write_verdict",
]
