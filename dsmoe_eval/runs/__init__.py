"""plan -> cells -> samples on disk -> comparisons."""

from .folder import RunFolder
from .identify import identify
from .run import run

__all__ = ["RunFolder", "identify", "run"]
