"""Results of many runs, kept in git: filed, checked, ranked, compared and shown.

Entries are appended to and never changed; what is rendered follows from them.
"""

from .build import Built, build
from .changes import Change, Difference, differences, read_result
from .checks import Finding, check_leaderboards
from .filing import Added, add_run, today
from .ranking import Standing, rank
from .schema import Filed

__all__ = [
    "Added",
    "Built",
    "Change",
    "Difference",
    "Filed",
    "Finding",
    "Standing",
    "add_run",
    "build",
    "check_leaderboards",
    "differences",
    "rank",
    "read_result",
    "today",
]
