"""Models with random weights or shuffled routers: the controls for claims about training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..errors import UserError
from ..steering import find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_USUAL_SPREAD = 0.02
"""Standard deviation of the weights if a configuration gives none."""


def random_weights(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device | str, seed: int
) -> PreTrainedModel:
    """Build an untrained model with weights drawn by the architecture's initialisation.

    Routers that the initialisation sets to zero, such as Ernie's, are drawn as well: otherwise
    they would send every token to the same experts.

    The model's router is a fixed random function of the tokens, so it also sends different words
    to different experts; this shows vocabulary, not learning.

    Args:
        config: a configuration of transformers; not changed. Quantised weights are drawn in
            `dtype` instead.
        dtype: the model's dtype.
        device: the device on which the model is built. Other devices draw other numbers.
        seed: the seed of the draw; the caller's random state is not changed.

    Returns:
        The causal language model, in eval mode.

    Raises:
        SteeringError: the model has no known router.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, trust_remote_code=False
        )
        spread = getattr(config.get_text_config(), "initializer_range", None) or _USUAL_SPREAD
        for router in find_routers(model):
            if not router.weight.any():
                torch.nn.init.normal_(router.weight, std=spread)
    return model.eval()


@contextmanager
def shuffled_routers(model: PreTrainedModel, seed: int) -> Iterator[None]:
    """Run the context with every router's input dimensions shuffled, one shuffle per layer.

    An expert keeps the size of its weights and its similarity to the layer's other experts, but the
    router no longer fits what it reads. Shuffled rows would only rename the experts, and rows
    shuffled separately would lose the experts' similarity too.

    Args:
        model: a model with known routers; everything but their weights stays.
        seed: the seed of the shuffles, the same on all devices.

    Raises:
        SteeringError: the model has no known router.
        UserError: a router's weights are not in memory.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [router.weight.data for router in find_routers(model)]
    if any(weight.is_meta for weight in weights):
        raise UserError(
            "the model does not fit on its device, and routers that are loaded piece by piece "
            "cannot be shuffled; use a device with more memory"
        )
    kept = [weight.clone() for weight in weights]
    try:
        for weight, before in zip(weights, kept, strict=True):
            order = torch.randperm(before.shape[1], generator=generator)
            weight.copy_(before[:, order.to(before.device)])
        yield
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)
