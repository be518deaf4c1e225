"""Expert identification: text -> token saliency and routing -> counts -> scores -> chosen experts.

It needs torch and transformers, and of this package only `steering`.
"""

from .choose import (
    MATCH_TOLERANCE,
    best_experts,
    choose_experts,
    exposure_gaps,
    matched_experts,
    signed_experts,
    smallest_sets,
)
from .counting import count_routing
from .counts import Marker, RoutingCounts
from .documents import Document, documents_hash, encode_documents, with_answer
from .influence import Form, Influence, ScoredText, layer_steps, stepped_form
from .influence_items import Effect, InfluenceItems, OutcomeItem, measure_influence
from .joining import with_saliency
from .methods import Method, all_methods, get_method
from .objective import PlainText, ShiftObjective
from .observations import Observations, Shape, observe, observe_routed
from .outputs import check_outputs, record_tokens, sample_tokens
from .pruning import exposure_kept, pruned_experts, randomly_pruned, share_removed
from .resampling import resample_documents
from .scores import activation_share, exposure
from .set_similarity import set_similarity
from .similarity import ExpertSimilarity, cka, effective_rank, expert_similarity
from .streams import StreamMeans, in_phase, mean_streams, sum_streams
from .super_experts import Peaks, SuperExpert, measure_peaks, super_experts
from .usage import column_width, encode_batch, expert_usage, in_columns

__all__ = [
    "MATCH_TOLERANCE",
    "Document",
    "Effect",
    "ExpertSimilarity",
    "Form",
    "Influence",
    "InfluenceItems",
    "Marker",
    "Method",
    "Observations",
    "OutcomeItem",
    "Peaks",
    "PlainText",
    "RoutingCounts",
    "ScoredText",
    "Shape",
    "ShiftObjective",
    "StreamMeans",
    "SuperExpert",
    "activation_share",
    "all_methods",
    "best_experts",
    "check_outputs",
    "choose_experts",
    "cka",
    "column_width",
    "count_routing",
    "documents_hash",
    "effective_rank",
    "encode_batch",
    "encode_documents",
    "expert_similarity",
    "expert_usage",
    "exposure",
    "exposure_gaps",
    "exposure_kept",
    "get_method",
    "in_columns",
    "in_phase",
    "layer_steps",
    "matched_experts",
    "mean_streams",
    "measure_influence",
    "measure_peaks",
    "observe",
    "observe_routed",
    "pruned_experts",
    "randomly_pruned",
    "record_tokens",
    "resample_documents",
    "sample_tokens",
    "set_similarity",
    "share_removed",
    "signed_experts",
    "smallest_sets",
    "stepped_form",
    "sum_streams",
    "super_experts",
    "with_answer",
    "with_saliency",
]
