"""Leaderboards, for their commands."""

from ..leaderboards.conftest import (  # noqa: F401 - fixtures
    _clean,
    board,
    filed,
    folder,
    make_run,
    run,
)
