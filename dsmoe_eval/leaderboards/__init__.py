"""Results of many runs, kept in git: submitted, checked, ranked, compared and shown.

Entries are appended to and never changed; what is rendered follows from them.
"""

from .build import build
from .changes import Change, Difference, differences, read_result
from .checks import check_leaderboards
from .ranking import rank
from .schema import Submission
from .submission import Added, add_run, today
from .verify import Mismatch, Verified, verify

__all__ = [
    "Added",
    "Change",
    "Difference",
    "Mismatch",
    "Submission",
    "Verified",
    "add_run",
    "build",
    "check_leaderboards",
    "differences",
    "rank",
    "read_result",
    "today",
    "verify",
]
