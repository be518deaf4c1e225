"""The size of a model, from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..steering import EXPERTS, Sites, SteeringError, find_sites, routers_of
from .architecture import idle_parameters, parameters, weightless
from .folder_checks import of_model
from .loading import model_config
from .places import locate


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The size of a model in a folder.

    Attributes:
        active_parameters: the parameters without those of experts that a token does not select.
        weights_bytes: the size of the safetensors, or, without any, of the weights in the
            configuration's dtype.
    """

    active_parameters: int
    weights_bytes: int


def measure_model(name: str, sites: Sites = EXPERTS) -> ModelSize:
    """Measure a model from its configuration, refusing what `load_model` would refuse by it.

    Args:
        name: as for `load_model`, but of a folder: no weights are read.
        sites: as for `load_model`.

    Raises:
        UserError: transformers has no code for the model, or it has no units of this kind.
    """
    place = locate(name)
    config = model_config(name, place)
    model = of_model(f"model {name!r}", lambda: weightless(config))
    try:
        routers = routers_of(find_sites(model, sites))
    except SteeringError as error:
        raise UserError(f"model {name!r}: {error}") from error
    published = sum(path.stat().st_size for path in Path(place).glob("*.safetensors"))
    built = sum(one.numel() * one.element_size() for one in model.parameters())
    idle = idle_parameters(model, routers) if routers else 0
    return ModelSize(parameters([model]) - idle, published or built)


def count_parameters(name: str) -> int | None:
    """Count the parameters of transformers' model; None if transformers has no code for it.

    No weights are read. Packed values of a checkpoint, such as MXFP4, count as parameters of the
    unpacked model.
    """
    place = locate(name)
    try:
        config = model_config(name, place)
        model = of_model(f"model {name!r}", lambda: weightless(config))
    except UserError:
        return None
    return parameters([model])
