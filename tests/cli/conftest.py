"""Leaderboards, for their commands."""

from ..leaderboards.conftest import (  # noqa: F401 - fixtures
    _clean,
    board,
    folder,
    make_run,
    run,
    submission,
)
