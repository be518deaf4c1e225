"""Who runs a plan on several models: which worker of which model, on how many GPUs."""

from .base import Executor, Finished, Matrix
from .schedule import ModelState, Needs, needs_of, next_worker

__all__ = ["Executor", "Finished", "Matrix", "ModelState", "Needs", "needs_of", "next_worker"]
