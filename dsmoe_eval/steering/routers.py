"""Where a model's routers are, found by structure.

transformers keeps a registry that tells, for each MoE model class, which module class gives the
router's output and at which index the logits stand (`OutputRecorder`). No list of architectures is
kept here: what the registry does not know is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .errors import SteeringError


@dataclass(frozen=True, slots=True)
class Router:
    """One router: `module` gives (logits [T, E], weights [T, k], indices [T, k]) to `consumer`."""

    layer: int
    name: str
    module: nn.Module
    consumer: nn.Module
    experts: int
    top_k: int

    @property
    def device(self) -> torch.device:
        """Where the router's parameters are."""
        return next(self.module.parameters()).device


def find_routers(model: nn.Module) -> tuple[Router, ...]:
    """All routers of `model`, in layer order.

    Raises:
        SteeringError: the model is no MoE that transformers can describe, or a router has a shape
            that this version does not steer.
    """
    classes = _router_classes(model)
    routers = [
        _describe(model, name, module)
        for name, module in model.named_modules()
        if classes and isinstance(module, classes)
    ]
    if not routers:
        raise SteeringError(
            f"{type(model).__name__} has no router that transformers declares; only "
            "mixture-of-experts models whose class is part of transformers can be steered"
        )
    return tuple(sorted(routers, key=lambda router: router.layer))


def router_hash(routers: Sequence[Router]) -> str:
    """First 16 hex digits of the SHA-256 of all routers' weights, rounded to bfloat16.

    The rounding makes a model loaded in float32 and in bfloat16 the same. Fine-tuning that leaves
    the routers alone leaves it the same too: such a model routes by the same experts.
    """
    digest = hashlib.sha256()
    for router in routers:
        for name, weight in sorted(router.module.named_parameters()):
            digest.update(f"{router.layer} {name} {tuple(weight.shape)}".encode())
            bits = weight.detach().to(torch.bfloat16).contiguous().view(torch.uint8)
            digest.update(bits.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _router_classes(model: nn.Module) -> tuple[type[nn.Module], ...]:
    from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY, OutputRecorder

    classes: list[type[nn.Module]] = []
    for module in model.modules():
        recorders = (_CAN_RECORD_REGISTRY.get(str(module.__class__)) or {}).get("router_logits", [])
        for recorder in recorders if isinstance(recorders, list) else [recorders]:
            target = recorder.target_class if isinstance(recorder, OutputRecorder) else recorder
            index = recorder.index if isinstance(recorder, OutputRecorder) else 0
            if index != 0:
                raise SteeringError(
                    f"{type(model).__name__}: its router does not return its logits first; "
                    "this version steers only routers that return (logits, weights, indices)"
                )
            classes.append(target)
    return tuple(classes)


def _describe(model: nn.Module, name: str, module: nn.Module) -> Router:
    layer = re.search(r"\.layers\.(\d+)\.", f".{name}.")
    block = model.get_submodule(name.rpartition(".")[0])
    consumer = getattr(block, "experts", None)
    experts, top_k = getattr(module, "num_experts", None), getattr(module, "top_k", None)
    if layer is None or consumer is None or experts is None or top_k is None:
        raise SteeringError(
            f"{type(model).__name__}: router {name!r} does not show its layer, its experts, their "
            "number and its top-k; this version cannot steer it"
        )
    return Router(int(layer.group(1)), name, module, consumer, int(experts), int(top_k))
