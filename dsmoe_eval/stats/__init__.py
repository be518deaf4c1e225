"""Arrays in, numbers out: paired comparison of two systems, and which units a domain uses more.

Scores, rates, differences, margins and levels are fractions, never percents. In a paired
comparison A is the baseline and a difference is B minus A.
"""

from .bootstrap import ExcessUseIntervals, bootstrap_intervals, chance_jaccard, top_stability
from .multiplicity import benjamini_hochberg, holm
from .noninferiority import NonInferiority, non_inferiority
from .paired import (
    PairedCounts,
    PairedResult,
    compare_paired,
    count_pairs,
    mcnemar_midp,
    tango_interval,
    tango_z,
)
from .permutation import (
    DocumentCounts,
    ExcessUse,
    excess_use,
    fewest_discoveries,
    permutation_p_values,
)
from .power import midp_power, smallest_effect

__all__ = [
    "DocumentCounts",
    "ExcessUse",
    "ExcessUseIntervals",
    "NonInferiority",
    "PairedCounts",
    "PairedResult",
    "benjamini_hochberg",
    "bootstrap_intervals",
    "chance_jaccard",
    "compare_paired",
    "count_pairs",
    "excess_use",
    "fewest_discoveries",
    "holm",
    "mcnemar_midp",
    "midp_power",
    "non_inferiority",
    "permutation_p_values",
    "smallest_effect",
    "tango_interval",
    "tango_z",
    "top_stability",
]
