"""Who runs a plan on several models: which worker of which model, on how many GPUs."""

from .schedule import ModelState, Needs, needs_of, next_worker

__all__ = ["ModelState", "Needs", "needs_of", "next_worker"]
