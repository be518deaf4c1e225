"""Tasks: items and their text, local data, loading through lm-eval, scoring, leakage."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {
    "Leakage": ".leakage",
    "LoadedTask": ".loading",
    "check_leakage": ".leakage",
    "find_leakage": ".leakage",
    "load_splits": ".splits",
    "load_tasks": ".loading",
    "plan_leakage": ".splits",
}


def __getattr__(name: str) -> object:
    """Import a name on first use: `compare` needs the text of items, but not lm-eval."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
