"""Models with random weights or shuffled routers: the controls for claims about training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..errors import UserError
from ..steering import EXPERTS, NeuronSite, Site, Sites, find_sites
from .restoring import restoring

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_USUAL_SPREAD = 0.02
"""Standard deviation of the weights if a configuration gives none."""


def random_weights(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int,
    sites: Sites = EXPERTS,
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
        sites: the units of the model.

    Returns:
        The causal language model, in eval mode.

    Raises:
        SteeringError: the model has no units of this kind.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, trust_remote_code=False
        )
        spread = getattr(config.get_text_config(), "initializer_range", None) or _USUAL_SPREAD
        for site in find_sites(model, sites):
            if not site.weight.any():
                torch.nn.init.normal_(site.weight, std=spread)
    return model.eval()


@contextmanager
def shuffled_routers(model: PreTrainedModel, seed: int, sites: Sites = EXPERTS) -> Iterator[None]:
    """Run the context with every router's input dimensions shuffled, one shuffle per layer.

    An expert keeps the size of its weights and its similarity to the layer's other experts, but the
    router no longer fits what it reads. Shuffled rows would only rename the experts, and rows
    shuffled separately would lose the experts' similarity too. Of neurons, the input dimensions of
    gate and up are shuffled alike.

    Args:
        model: a model with units of this kind; everything but these weights stays.
        seed: the seed of the shuffles, the same on all devices.
        sites: the units of the model.

    Raises:
        SteeringError: the model has no units of this kind.
        UserError: a router's weights are not in memory.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [_readers(site) for site in find_sites(model, sites)]
    weights = [weight for layer in layers for weight in layer]
    if any(weight.is_meta for weight in weights):
        raise UserError(
            "the model does not fit on its device, and routers that are loaded piece by piece "
            "cannot be shuffled; use a device with more memory"
        )
    with restoring(weights):
        for layer in layers:
            order = torch.randperm(layer[0].shape[1], generator=generator)
            for weight in layer:
                weight.copy_(weight[:, order.to(weight.device)].clone())
        yield


def _readers(site: Site) -> list[torch.Tensor]:
    """Return the weights that read the hidden states, each a view [outputs, hidden]."""
    if not isinstance(site, NeuronSite):
        return [site.weight.data]
    weights = [(one, one.get_parameter("weight").data) for one in site.readers]
    return [
        weight if isinstance(module, torch.nn.Linear) else weight.T for module, weight in weights
    ]
