"""Any two results, whoever computed them: read, paired, compared."""

from .compare import Comparison, compare
from .readers import Results, Selection, read_results

__all__ = ["Comparison", "Results", "Selection", "compare", "read_results"]
