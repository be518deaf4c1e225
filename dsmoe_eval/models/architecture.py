"""The facts about a model that are read from its modules, built without memory for weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ..steering import Router, SteeringError, decoder_layers, find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's layers, routers and parameters.

    Attributes:
        class_name: transformers' class, or that of the model's remote code.
        layers: the number of decoder layers.
        moe_layers: the indices of the layers with experts.
        unrouted: those of them without a router, as where a table of tokens chooses the experts.
        shared_experts: what every token uses beside the chosen experts, in parameters of one
            routed expert; several values if layers differ, none if it is not known.
        native_bias: whether the linear layer that gives the logits has a bias.
        active: the parameters without those of experts that a token does not select.
    """

    class_name: str
    layers: int
    moe_layers: tuple[int, ...]
    unrouted: tuple[int, ...]
    experts: int
    top_k: int
    shared_experts: tuple[float, ...]
    native_bias: bool
    total: int
    active: int


def read_architecture(model: PreTrainedModel) -> Architecture:
    """Read the structure of a model, which may be `weightless`.

    Raises:
        SteeringError: the model has no known router, or its layers differ in top-k or in the bias
            of their routers.
    """
    routers = find_routers(model)
    layers = decoder_layers(model, routers)
    blocks = [model.get_submodule(router.name.rpartition(".")[0]) for router in routers]
    shared = {_shared_experts(layers[router.layer], router) for router in routers}
    if any(block is layer for block in blocks for layer in layers):
        shared = set()  # nothing shows which of the layer's other parts belong to the experts
    kinds = {(router.top_k, _has_bias(router)) for router in routers}
    if len(kinds) > 1:
        raise SteeringError(
            f"{type(model).__name__}: its layers differ in top-k or in the bias of their routers, "
            "for which a card has no form"
        )
    top_k, native_bias = kinds.pop()
    total = parameters([model])
    routed = {router.layer for router in routers}
    with_experts = {index for index, layer in enumerate(layers) if experts_in(layer, routers)}
    return Architecture(
        class_name=type(model).__name__,
        layers=len(layers),
        moe_layers=tuple(sorted(with_experts | routed)),
        unrouted=tuple(sorted(with_experts - routed)),
        experts=routers[0].experts,
        top_k=top_k,
        shared_experts=tuple(sorted(shared)),
        native_bias=native_bias,
        total=total,
        active=total - idle_parameters(model, routers),
    )


def weightless(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model whose parameters have shapes and take no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def idle_parameters(model: nn.Module, routers: Sequence[Router]) -> int:
    """Count the parameters of the experts that a token does not select, over all layers."""
    experts, idle = routers[0].experts, routers[0].experts - routers[0].top_k
    return sum(parameters([one]) * idle // experts for one in experts_in(model, routers))


def experts_in(part: nn.Module, routers: Sequence[Router]) -> list[nn.Module]:
    """Return the modules of routed experts in a part of a model, also of layers without a router.

    A plain list of experts belongs to a router, or it is not recognised.
    """
    kinds = {type(router.consumer) for router in routers} - {nn.ModuleList}
    consumers = {id(router.consumer) for router in routers}
    return [one for one in part.modules() if type(one) in kinds or id(one) in consumers]


def parameters(modules: Iterable[nn.Module]) -> int:
    """Count the parameters of modules that do not share any."""
    return sum(one.numel() for module in modules for one in module.parameters())


def _shared_experts(layer: nn.Module, router: Router) -> float:
    """Return the size of a layer's shared experts, in parameters of one routed expert.

    transformers names them `shared...`, in the block of the experts or beside it. A gate with one
    output, which weighs them, is no part of them.
    """
    found: list[tuple[str, nn.Module]] = []
    for name, module in layer.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        gate = isinstance(module, nn.Linear) and module.out_features == 1
        if "shared" in name.rpartition(".")[2] and not inside and not gate:
            found.append((name, module))
    one = parameters([router.consumer]) / router.experts
    return parameters(module for _, module in found) / one


def _has_bias(router: Router) -> bool:
    """Return whether the linear layer over the experts has a bias."""
    weight = router.weight
    name = next(name for name, one in router.module.named_parameters() if one is weight)
    return name.removesuffix("weight") + "bias" in dict(router.module.named_parameters())
