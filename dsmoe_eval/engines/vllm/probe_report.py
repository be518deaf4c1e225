"""The results of the probes of a model in vLLM."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class VllmProbeReport:
    """The figures of the null probe and the effect probe.

    Attributes:
        null_max_difference: largest absolute difference of log-probabilities at strength zero; 0.0,
            since the probe raises an error otherwise.
        selection_changed: share of (token, MoE layer) pairs whose set of experts changed.
        logit_max_change: largest absolute change of a next token's log-probability.
        active_experts: number of experts per token and layer, the same for base and steered model.
        tokens: number of probed tokens.

    `selection_changed` and `active_experts` are None if vLLM compiles the model: only the routing
    of an eager model can be recorded.
    """

    null_max_difference: float
    selection_changed: float | None
    logit_max_change: float
    active_experts: int | None
    tokens: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the report for `cell.json`."""
        return asdict(self)
