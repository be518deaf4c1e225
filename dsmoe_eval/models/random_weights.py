"""The same architecture with random weights: what a claim about training is held against."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from ..steering import find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_USUAL_SPREAD = 0.02
"""Standard deviation of weights where a configuration names none."""


def random_weights(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device | str, seed: int
) -> PreTrainedModel:
    """A model as it is before training, drawn by its own initialisation.

    Routers that the initialisation leaves at zero, as Ernie's, are drawn as well: they would send
    every token to the same experts.

    Its router is a fixed random function of the tokens, so it too sends different words to
    different experts; what it shows is vocabulary, not learning.

    Args:
        config: of transformers; not changed. Quantised weights are drawn in `dtype` instead.
        dtype: of the model.
        device: where the model is built. Other devices draw other numbers.
        seed: of the draw; the caller's random state is left as it was.

    Returns:
        The causal language model, in eval mode.

    Raises:
        SteeringError: it has no router that is known.
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
