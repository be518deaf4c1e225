"""Checks of what steering can reach in a vLLM that runs in a certain way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...steering.errors import SteeringError
from ...steering.interventions import LayerEffect
from ...steering.profile import Profile
from .layer import SteerableMoERunner
from .neurons import SteerableRowParallelLinear

if TYPE_CHECKING:
    from vllm.config import ParallelConfig

SELECTS_INSIDE = (
    "{} selects the experts inside its kernel, where nothing but logits is seen; start vLLM with a "
    "moe_backend that is not monolithic, such as triton or marlin"
)


def check_compiled(layer: SteerableMoERunner | SteerableRowParallelLinear) -> None:
    """Refuse a layer whose compiled graph lacks the edits; vLLM has run every graph once."""
    if not int(layer.dsmoe_calls):
        raise SteeringError(
            "the layer has run without its edits, so from a graph that was compiled without them; "
            "delete vLLM's cache (VLLM_CACHE_ROOT) or start with enforce_eager"
        )


def check_reached(layer: SteerableMoERunner, effect: LayerEffect) -> None:
    """Refuse an effect that this layer's computation would not apply."""
    after_logits = effect.weight_factor is not None or (
        effect.choice_shift is not None and layer.correction_bias is not None
    )
    if layer.is_monolithic and after_logits:
        raise SteeringError(
            SELECTS_INSIDE.format(kernel_name(layer)) + "; or steer by bias in the logit channel"
        )


def check_vectors_apart(profile: Profile) -> None:
    """Refuse a profile of the residual stream, which vLLM has only for all requests together."""
    if profile.vectors:
        raise SteeringError(
            f"profile {profile.id} adds vectors to the residual stream, which is the same for all "
            "requests; steer the whole engine by it"
        )


def check_correction(
    profile: Profile,
    effects: Mapping[int, LayerEffect],
    layers: Mapping[int, SteerableMoERunner],
) -> None:
    """Refuse a profile that changes a correction bias, which is one for all requests."""
    for index, effect in effects.items():
        if effect.choice_shift is not None and layers[index].correction_bias is not None:
            raise SteeringError(
                f"layer {index}: profile {profile.id} ({profile.intervention.kind}) changes the "
                "router's correction bias, which is the same for all requests; steer the whole "
                "engine by it"
            )


def check_rows(sequence_parallel: bool, parallel_config: ParallelConfig) -> None:
    """Refuse ways to run in which a layer's tokens are not the tokens of the worker's step."""
    ways = {
        "data parallelism": parallel_config.data_parallel_size > 1,
        "prefill context parallelism": parallel_config.prefill_context_parallel_size > 1,
        "dual batch overlap": parallel_config.use_ubatching,
        "sequence parallelism": sequence_parallel,
    }
    used = [name for name, is_used in ways.items() if is_used]
    if used:
        raise SteeringError(
            f"with {' and '.join(used)} the tokens of a step are moved between the layers, so that "
            "they have no row of a profile; use tensor parallelism or several engines"
        )


def kernel_name(layer: SteerableMoERunner) -> str:
    """Return the name of the layer's kernel for errors."""
    return type(layer.routed_experts.quant_method).__name__
