"""Results of many runs, kept in git: submitted, checked, ranked, compared and shown.

Entries are appended to and never changed; what is rendered follows from them.
"""

from .build import Built, build
from .changes import Change, Difference, differences, read_result
from .checks import Finding, check_leaderboards
from .ranking import LeaderboardRow, rank
from .schema import Submission
from .submission import Added, add_run, today

__all__ = [
    "Added",
    "Built",
    "Change",
    "Difference",
    "Finding",
    "LeaderboardRow",
    "Submission",
    "add_run",
    "build",
    "check_leaderboards",
    "differences",
    "rank",
    "read_result",
    "today",
]
