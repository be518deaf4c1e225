"""Leaderboards with their runs, whose schema is tested here."""

from ..leaderboards.conftest import (  # noqa: F401 - fixtures
    _clean,
    board,
    make_run,
    run,
    runs_of,
    submission,
)
