"""Runs by chance, whose gains are compared here."""

from ..leaderboards.conftest import make_run  # noqa: F401 - a fixture
