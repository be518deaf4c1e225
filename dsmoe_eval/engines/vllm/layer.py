"""vLLM's MoE layer with the interventions in it.

vLLM runs every routed layer through one class, `MoERunner`, which takes the logits, has them turned
into (weights, indices) and calls the experts. Importing this module replaces that class, by vLLM's
registry, for models built afterwards in this process. Two edits are in its computation from the
start, with values in buffers that are rewritten in place: torch.compile and CUDA graphs keep the
operations that they traced, so none can be added later. A buffer has one row per profile, and each
token takes the row of its request (see `table`); row 0 is neutral.

The edits are those of `steering.interventions`, without branches: bias, mask and force on the
logits, reweight and amplify on the weights, after selection. The score channel is the router's
correction bias, of which there is one for all tokens; it is rewritten in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.platforms import current_platform

from ...steering.errors import SteeringError
from ...steering.interventions import LayerEffect, force_logits
from ...steering.scoring import Groups, ScoreFunction, Scoring
from .table import mark_as_steerable, token_rows

# The router classes of vLLM whose use of the logits is known; any other class is refused.
_ROUTERS = ("CPURouter", "FusedTopKRouter", "FusedTopKBiasRouter", "GroupedTopKRouter")


def steer_logits(
    logits: Tensor, rows: Tensor, shift: Tensor, forced: Tensor, margin: Tensor
) -> Tensor:
    """Compute `edit_logits` without branches; with zeros everywhere the bits do not change.

    Args:
        logits: [tokens, experts], any float dtype.
        rows: [tokens], int64, the row of each token in the other arguments.
        shift: [profiles, experts], float32, added; -inf masks.
        forced: [profiles, experts], float32: +1 activated, -1 deactivated, 0 unchanged.
        margin: [profiles, 1], float32, the margin of the forced experts.
    """
    shifted = (logits.float() + shift[rows]).to(logits.dtype)
    return force_logits(shifted, forced[rows], margin[rows])


def steer_weights(
    weights: Tensor, indices: Tensor, rows: Tensor, factor: Tensor, keep_sum: Tensor
) -> Tensor:
    """Compute `edit_weights` without branches; with ones and False the bits do not change.

    Args:
        weights: [tokens, k], not negative.
        indices: [tokens, k], the selected experts.
        rows: [tokens], int64, the row of each token in the other arguments.
        factor: [profiles, experts], float32.
        keep_sum: [profiles, 1], bool: whether each token's weights are scaled to their former sum.
    """
    before = weights.float()
    scaled = before * factor[rows[:, None], indices]
    ratio = before.sum(-1, keepdim=True) / scaled.sum(-1, keepdim=True)
    return (scaled * torch.where(keep_sum[rows], ratio, 1.0)).to(weights.dtype)


if not current_platform.is_cpu():
    # On GPUs vLLM keeps the MoE layer out of its compiled graph, and some twenty small kernels per
    # layer would be slow; on CPUs the edits are compiled with the model.
    _compiled = partial(
        torch.compile, dynamic=True, backend=current_platform.simple_compile_backend
    )
    steer_logits, steer_weights = _compiled(steer_logits), _compiled(steer_weights)


@MoERunner.register_oot
class SteerableMoERunner(MoERunner):  # type: ignore[misc]
    """One routed layer of vLLM, with steering added."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        rows = 1 + mark_as_steerable()
        experts = self.moe_config.num_logical_experts
        neutral = {
            "shift": torch.zeros(rows, experts, dtype=torch.float32),
            "forced": torch.zeros(rows, experts, dtype=torch.float32),
            "margin": torch.zeros(rows, 1, dtype=torch.float32),
            "factor": torch.ones(rows, experts, dtype=torch.float32),
            "keep_sum": torch.zeros(rows, 1, dtype=torch.bool),
            "rows": token_rows(),
            "calls": torch.zeros((), dtype=torch.int64),
        }
        for name, value in neutral.items():
            self.register_buffer(f"dsmoe_{name}", value, persistent=False)
        self._saved_bias: Tensor | None = None
        self.dsmoe_note: Callable[[Tensor, Tensor], None] | None = None
        """A function that gets weights and experts, [tokens, k] each, of every call that is not
        compiled. A factor that vLLM applies to the experts' sum is included in the weights."""
        self.dsmoe_note_logits: Callable[[Tensor], None] | None = None
        """A function that gets the logits, [tokens, experts], of every such call, before that."""
        # This method gives weights and logical indices; later the indices may be physical ones.
        route = self.router._compute_routing
        self.router._compute_routing = partial(self._dsmoe_route, route)

    def _dsmoe_route(
        self, route: Callable[..., tuple[Tensor, Tensor]], *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        weights, indices = route(*args, **kwargs)
        edited = steer_weights(
            weights, indices, self._rows_of(weights), self.dsmoe_factor, self.dsmoe_keep_sum
        )
        if self.dsmoe_note is not None:
            self.dsmoe_note(edited * self.routed_scaling_factor, indices)
        return edited, indices

    def _apply_quant_method(
        self, hidden_states: Tensor, router_logits: Tensor, *args: object, **kwargs: object
    ) -> Any:
        self.dsmoe_calls.add_(1)
        if self.dsmoe_note_logits is not None:
            self.dsmoe_note_logits(router_logits)
        logits = steer_logits(
            router_logits,
            self._rows_of(router_logits),
            self.dsmoe_shift,
            self.dsmoe_forced,
            self.dsmoe_margin,
        )
        return super()._apply_quant_method(hidden_states, logits, *args, **kwargs)

    @property
    def capacity(self) -> int:
        """The number of profiles at once."""
        return len(self.dsmoe_shift) - 1

    @property
    def correction_bias(self) -> Tensor | None:
        """The router's correction bias, [experts]; None if scores alone decide the selection."""
        return cast("Tensor | None", getattr(self.router, "e_score_correction_bias", None))

    def _rows_of(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.dsmoe_rows)[: values.shape[0]]

    def steer(self, row: int, effect: LayerEffect) -> None:
        """Write `effect` into a row, which is neutral before; the correction bias is not in it."""
        if effect.logit_shift is not None:
            self.dsmoe_shift[row] = effect.logit_shift
        if effect.forced is not None:
            self.dsmoe_forced[row] = effect.forced
            self.dsmoe_margin[row] = effect.force_margin
        if effect.weight_factor is not None:
            self.dsmoe_factor[row] = effect.weight_factor
            changed = bool((effect.weight_factor != 1).any())
            self.dsmoe_keep_sum[row] = effect.keep_sum and changed

    def clear(self, row: int) -> None:
        """Make a row neutral."""
        for zero in (self.dsmoe_shift, self.dsmoe_forced, self.dsmoe_margin, self.dsmoe_keep_sum):
            zero[row] = 0
        self.dsmoe_factor[row] = 1

    def shift_correction(self, shift: Tensor) -> None:
        """Add a shift, [experts], to the correction bias, for all tokens, until it is restored."""
        if self.correction_bias is not None:
            self._saved_bias = self.correction_bias.detach().clone()
            self.correction_bias.data.add_(shift)

    def restore_correction(self) -> None:
        """Restore the correction bias from the next call on."""
        if self._saved_bias is not None and self.correction_bias is not None:
            self.correction_bias.data.copy_(self._saved_bias)
            self._saved_bias = None


def read_scoring(layer: SteerableMoERunner) -> Scoring:
    """Return the rule by which `layer` turns logits into (weights, indices).

    Raises:
        SteeringError: the rule is not known, or this version of vLLM computes the model wrongly.
    """
    router, bias = layer.router, layer.correction_bias
    kind = type(router).__name__
    custom = getattr(router, "custom_routing_function", None)
    if kind not in (*_ROUTERS, "CustomRoutingRouter"):
        raise SteeringError(f"vLLM routes it by {kind}, which this version cannot steer")
    if getattr(router, "num_fused_shared_experts", 0):
        raise SteeringError("vLLM fuses its shared experts into the routed ones; turn that off")
    if custom is not None:  # Phi's sparsemixer or a function of the model: the rule is unknown
        return Scoring("other", False, False, False)
    function = router.scoring_func if hasattr(router, "scoring_func") else "softmax"
    known = function in ("softmax", "sigmoid")
    ignores_bias = kind == "CPURouter" and not router.use_grouped_topk and function == "softmax"
    if ignores_bias and bias is not None and bool((bias != 0).any()):
        raise SteeringError(
            "vLLM's CPU router (0.32: cpu_router.py, CPURouter) ignores the correction bias of a "
            "router that scores by softmax without groups, so this model would answer wrongly even "
            "unsteered; run it on a GPU or by the transformers engine"
        )
    return Scoring(
        function=cast(ScoreFunction, function if known else "other"),
        renormalised=bool(router.renormalize),
        correction_bias=bias is not None and not ignores_bias,
        shift_invariant=function == "softmax",
        groups=_groups(router),
    )


def _groups(router: Any) -> Groups | None:
    """Return the groups that limit the choice; vLLM sums two scores where there is a bias."""
    grouped = type(router).__name__ == "GroupedTopKRouter"
    if not grouped and not getattr(router, "use_grouped_topk", False):
        return None
    count, kept = int(router.num_expert_group), int(router.topk_group)
    by_best = router.e_score_correction_bias is None
    return Groups(count, kept, by_best) if kept < count else None
