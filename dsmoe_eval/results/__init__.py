"""One description of a run's outcome: its folder, its cells, its comparisons and their schema."""

from importlib import import_module
from typing import TYPE_CHECKING

from .folder import RunFolder

if TYPE_CHECKING:
    from .finished import FinishedRun, read_finished
    from .schema import RunResult

__all__ = ["FinishedRun", "RunFolder", "RunResult", "read_finished"]
_HOMES = {"FinishedRun": "finished", "RunResult": "schema", "read_finished": "finished"}


def __getattr__(name: str) -> object:
    """Import a public name on first use: a command that reads files only needs no torch."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
