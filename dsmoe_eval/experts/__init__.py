"""Expert identification: text -> token saliency and routing -> counts -> scores -> chosen experts.

Needs torch and transformers and nothing of the harness.
"""

from .choose import best_experts, matched_experts
from .counts import RoutingCounts, count_routing
from .observe import Observations, encode_batch, expert_usage, observe, token_saliency
from .scores import METHODS, activation_share, dsmoe, exposure, risk_difference

__all__ = [
    "METHODS",
    "Observations",
    "RoutingCounts",
    "activation_share",
    "best_experts",
    "count_routing",
    "dsmoe",
    "encode_batch",
    "expert_usage",
    "exposure",
    "matched_experts",
    "observe",
    "risk_difference",
    "token_saliency",
]
