"""plan -> arms -> cells -> samples on disk -> comparisons."""

from .identification import identify
from .options import RunOptions
from .power import plan_power
from .run import prepared, run

__all__ = ["RunOptions", "identify", "plan_power", "prepared", "run"]
