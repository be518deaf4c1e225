"""What is asked: items and their text, local data, loading through lm-eval, scoring, leakage."""

from .leakage import Leakage, check_leakage, find_leakage
from .loading import LoadedTask, load_tasks
from .splits import load_splits, plan_leakage

__all__ = [
    "Leakage",
    "LoadedTask",
    "check_leakage",
    "find_leakage",
    "load_splits",
    "load_tasks",
    "plan_leakage",
]
