"""Evaluation of steered mixture-of-experts models: gains, costs, and their statistical support."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import compare
    from .models import load_model
    from .runs import identify
    from .runs.run import run
    from .steering import steer

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "identify", "load_model", "run", "steer"]

_HOMES = {
    "compare": ".comparison",
    "identify": ".runs",
    "load_model": ".models",
    "run": ".runs",
    "steer": ".steering",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line starts fast."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
