"""plan -> arms -> cells -> samples on disk -> comparisons."""

from .identification import identify
from .power import plan_power
from .run import prepared, run

__all__ = ["identify", "plan_power", "prepared", "run"]
