"""Paired comparison of two systems' 0/1 scores: arrays in, numbers out.

Scores, differences, margins and levels are fractions, never percents; A is the baseline and a
difference is B minus A.
"""

from .multiplicity import holm
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
from .power import midp_power, smallest_effect

__all__ = [
    "NonInferiority",
    "PairedCounts",
    "PairedResult",
    "compare_paired",
    "count_pairs",
    "holm",
    "mcnemar_midp",
    "midp_power",
    "non_inferiority",
    "smallest_effect",
    "tango_interval",
    "tango_z",
]
