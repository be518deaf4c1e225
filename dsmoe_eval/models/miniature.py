"""A small random model of any architecture with the real router class, experts and top-k.

It shows within seconds, without weights, whether steering works on an architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from ..errors import one_line, out_of_memory
from ..steering import NoRouterError, SteeringError, find_routers
from .architecture import weightless
from .shrinking import depth_of, empty_fields, first_layers, kinds_of, said_of_experts, shrink

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SEED = 0
_MIN_MOE_LAYERS = 2
_LAYERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
_ROUTER_STD = 0.5
_MOST_PARAMETERS = 200_000_000
"""0.8 GB in float32; with what a process takes anyway, a probe stays below 4 GB."""


def miniature(
    config: PreTrainedConfig, dtype: torch.dtype = torch.float32, *, dense: bool = False
) -> PreTrainedModel:
    """Build a random model of `config`'s architecture with at least two MoE layers, if it has two.

    Args:
        config: a configuration of transformers; not changed. Experts, top-k, groups and scoring
            are kept; widths, depth and vocabulary are reduced.
        dtype: the model's dtype.
        dense: whether it is to have no routers, but two layers or more.

    Returns:
        The causal language model, in eval mode, with the same weights at each call.

    Raises:
        SteeringError: the model has no routers, or none that can be steered; its configuration
            lacks fields; or no small version could be built.
    """
    small = _outlined(config, dense)
    try:
        return _build(small, dtype, dense)
    except SteeringError:
        raise
    except Exception as error:  # transformers may raise anything
        raise _not_built(config, error) from error


def _outlined(config: PreTrainedConfig, dense: bool) -> PreTrainedConfig:
    """Return the small configuration with the fewest layers that show every kind of layer."""
    try:
        small = shrink(config)
        text = small.get_text_config()
        kinds, depth = kinds_of(text), depth_of(text)
        for layers in _depths(depth):
            part = first_layers(small, layers)
            model = weightless(part)
            last = layers >= depth
            every_kind = last or kinds_of(part.get_text_config()) == kinds
            if (dense or _enough_routers(model, config, last)) and every_kind:
                _check_size(model, config)
                return part
    except SteeringError:
        raise
    except Exception as error:  # transformers may raise anything
        raise _not_built(config, error) from error
    raise AssertionError("the last depth returns or raises")


def _depths(depth: int) -> Iterator[int]:
    yield from (layers for layers in _LAYERS if layers < depth)
    yield depth


def _enough_routers(model: PreTrainedModel, config: PreTrainedConfig, last: bool) -> bool:
    try:
        return len(find_routers(model)) >= (1 if last else _MIN_MOE_LAYERS)
    except NoRouterError as error:
        if not last:
            return False
        said = [f"{n} is {value}" for n, value in said_of_experts(config.get_text_config()).items()]
        if not said:
            raise
        raise NoRouterError(
            f"a model of this configuration of {config.model_type!r} has no routers "
            f"({', '.join(said)}); use the config.json of one that has"
        ) from error
    except SteeringError as error:
        raise _not_built(config, error) from error


def _check_size(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > _MOST_PARAMETERS:
        name, largest = max(model.named_parameters(), key=lambda one: one[1].numel())
        raise SteeringError(
            f"the smallest model that can be made of {config.model_type!r} still has "
            f"{parameters:,} parameters ({name!r}: {list(largest.shape)}), and this version does "
            f"not build more than {_MOST_PARAMETERS:,}; probe the model itself instead"
        )


def _not_built(config: PreTrainedConfig, error: Exception) -> SteeringError:
    if out_of_memory(error):
        raise error
    empty = empty_fields(config.get_text_config(), error)
    if empty:
        return SteeringError(
            f"the configuration of {config.model_type!r} has no value for {', '.join(empty)}, "
            "without which its layers cannot be built; use the config.json of a published model"
        )
    if isinstance(error, SteeringError):
        return error
    return SteeringError(
        f"transformers cannot build a small random model of {config.model_type!r} from this "
        f"configuration ({one_line(error)}); probe the model itself instead"
    )


def _build(config: PreTrainedConfig, dtype: torch.dtype, dense: bool) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(_SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False).eval()
    with torch.no_grad():
        for router in () if dense else find_routers(model):
            # Router weights are drawn with a large spread, so that tokens differ in their experts.
            router.weight.normal_(std=_ROUTER_STD)
        model(input_ids=torch.ones(1, 4, dtype=torch.long), use_cache=False)
    return model
