"""Statistics on arrays: paired comparison of two systems, and tests of excess use by a domain.

Rates, margins and levels are fractions, never percents. Scores are fractions too, unless they have
another unit; more is better. In a paired comparison A is the baseline and a difference is B minus
A.
"""

from .bootstrap import bootstrap_intervals, chance_jaccard, top_stability
from .claims import POINTS, Claim, Unit, claim, disagreement, regressions
from .draws import compare_with_draws
from .fieller import GainRatio, fieller_interval, ratio_of_gains
from .gains import compare_gains
from .intervals import Bounds, mean_interval, ratio_interval
from .multiplicity import benjamini_hochberg, holm
from .noninferiority import NonInferiority, non_inferiority
from .overlap import expected_jaccard, jaccard
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
    DocumentSums,
    ExcessUse,
    excess_use,
    fewest_discoveries,
    permutation_p_values,
)
from .power import (
    SampleVariance,
    items_needed,
    items_needed_of_samples,
    midp_power,
    sample_variance,
    smallest_effect,
)
from .prediction import Prediction, pool_predictions, predict_mean, prediction_interval
from .scores import score_interval
from .strata import ModelsSummary, combine_models, compare_strata

__all__ = [
    "POINTS",
    "Bounds",
    "Claim",
    "DocumentCounts",
    "DocumentSums",
    "ExcessUse",
    "GainRatio",
    "ModelsSummary",
    "NonInferiority",
    "PairedCounts",
    "PairedResult",
    "Prediction",
    "SampleVariance",
    "Unit",
    "benjamini_hochberg",
    "bootstrap_intervals",
    "chance_jaccard",
    "claim",
    "combine_models",
    "compare_gains",
    "compare_paired",
    "compare_strata",
    "compare_with_draws",
    "count_pairs",
    "disagreement",
    "excess_use",
    "expected_jaccard",
    "fewest_discoveries",
    "fieller_interval",
    "holm",
    "items_needed",
    "items_needed_of_samples",
    "jaccard",
    "mcnemar_midp",
    "mean_interval",
    "midp_power",
    "non_inferiority",
    "permutation_p_values",
    "pool_predictions",
    "predict_mean",
    "prediction_interval",
    "ratio_interval",
    "ratio_of_gains",
    "regressions",
    "sample_variance",
    "score_interval",
    "smallest_effect",
    "tango_interval",
    "tango_z",
    "top_stability",
]
