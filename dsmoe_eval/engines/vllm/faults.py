"""Models that vLLM 0.32 computes wrongly, detected by comparison with transformers.

Phi-MoE: `PhiMoEForCausalLM` loads the bias of the last linear and never adds it, so all of its
log-probabilities are off by up to that bias. It is added here. Its attention always has a bias,
regardless of the configuration: without one in the checkpoint that is uninitialised memory.

ERNIE 4.5 on CPUs is refused by `layer.read_scoring`, which explains the reason.
"""

from __future__ import annotations

from torch import Tensor, nn
from vllm.model_executor.models.phimoe import PhiMoEForCausalLM

from ...steering.errors import SteeringError


def _phimoe_logits(model: PhiMoEForCausalLM, hidden_states: Tensor) -> Tensor | None:
    bias = model.lm_head.bias if model.config.lm_head_bias else None
    logits: Tensor | None = model.logits_processor(model.lm_head, hidden_states, bias)
    return logits


PhiMoEForCausalLM.compute_logits = _phimoe_logits


def check_model(model: nn.Module) -> None:
    """Refuse a model that this vLLM would compute wrongly.

    Raises:
        SteeringError: the model is computed wrongly; the message names the cause.
    """
    if isinstance(model, PhiMoEForCausalLM) and not model.config.attention_bias:
        raise SteeringError(
            "vLLM's Phi-MoE adds attention biases that this checkpoint, of attention_bias: false, "
            "does not have; they would be uninitialised memory; use the transformers engine"
        )
