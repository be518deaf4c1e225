"""Who runs a plan on several models: which worker of which model, on how many GPUs."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Executor, Finished, Matrix
    from .schedule import ModelState, Needs, needs_of, next_worker

__all__ = ["Executor", "Finished", "Matrix", "ModelState", "Needs", "needs_of", "next_worker"]
_OF_BASE = {"Executor", "Finished", "Matrix"}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `status` starts fast."""
    if name in __all__:
        return getattr(import_module(".base" if name in _OF_BASE else ".schedule", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
