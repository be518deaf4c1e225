"""Finds a model's routers by its structure.

In transformers each MoE model class names its router's module class (`can_record_outputs`). There
is no list of architectures here: a model that names none is refused, and the one fact that
structure does not show is in the table below.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SteeringError

NATIVE_ONLY = frozenset({"Mxfp4GptOssExperts"})
"""Experts modules that compute the logits themselves, from the router's weight and bias (gpt-oss in
MXFP4). The router's forward is never called, so steering can only change the router's bias."""


@dataclass(frozen=True, slots=True)
class Router:
    """One router: `module` gives each token's experts and weights to `consumer`, the experts.

    Attributes:
        layer: index of the layer in the model.
        name: name of the router's module in the model.
        correction_bias: [experts], or None; a bias that is added to the scores for the choice only.
    """

    layer: int
    name: str
    module: nn.Module
    consumer: nn.Module
    experts: int
    top_k: int
    correction_bias: Tensor | None

    @property
    def native_only(self) -> bool:
        """Whether the experts read only the router's weight and bias and never call it."""
        return type(self.consumer).__name__ in NATIVE_ONLY

    @property
    def device(self) -> torch.device:
        """The device on which the router computes."""
        device = getattr(getattr(self.module, "_hf_hook", None), "execution_device", None)
        return self.weight.device if device is None else torch.device(device)

    @property
    def weight(self) -> Tensor:
        """The weight of the linear layer that gives the logits, [experts, hidden].

        It is on the meta device while accelerate has offloaded it.
        """
        candidates = [
            parameter
            for parameter in self.module.parameters()
            if parameter.ndim == 2 and parameter.shape[0] == self.experts
        ]
        if len(candidates) != 1:
            raise SteeringError(
                f"router {self.name!r} does not have exactly one linear layer over its experts; "
                "this version cannot steer it"
            )
        return candidates[0]

    def loaded(self) -> AbstractContextManager[None]:
        """Return a context with the weights in memory, even where accelerate offloaded them."""
        if not hasattr(self.module, "_hf_hook"):
            return nullcontext()
        from accelerate.utils import align_module_device

        context: AbstractContextManager[None] = align_module_device(self.module)
        return context


def find_routers(model: nn.Module) -> tuple[Router, ...]:
    """Return all routers of `model`, in layer order.

    Raises:
        SteeringError: the model is no MoE in the registry of transformers, or a router has a
            structure that this version cannot steer.
    """
    kinds = _router_kinds(model)
    routers = [
        _describe(model, name, module)
        for name, module in model.named_modules()
        if any(isinstance(module, target) and part in name for target, part in kinds)
    ]
    if not routers:
        raise SteeringError(
            f"{type(model).__name__} has no router that transformers declares; only "
            "mixture-of-experts models whose class is part of transformers can be steered"
        )
    layers = [router.layer for router in routers]
    if len(set(layers)) < len(layers) or len({router.experts for router in routers}) > 1:
        raise SteeringError(
            f"{type(model).__name__} has two routers in one layer, or layers that differ in the "
            "number of experts; this version cannot steer it"
        )
    return tuple(sorted(routers, key=lambda router: router.layer))


def model_router_hash(routers: Sequence[Router]) -> str:
    """Compute the `router_hash` of a model's routers."""
    weights = {}
    for router in routers:
        with router.loaded():
            weights[router.layer] = router.weight.detach().cpu()
    return router_hash(weights)


def router_hash(weights: Mapping[int, Tensor]) -> str:
    """Compute the first 16 hex digits of the SHA-256 of all routers' weights, as bfloat16.

    Because of the rounding, a model has the same hash in float32 and in bfloat16. Fine-tuning that
    does not change the routers does not change the hash either: such a model has the same routers.
    All engines agree on it, because each has the linear layer that gives the logits.

    Args:
        weights: layer -> weight of the linear layer, [experts, hidden].
    """
    digest = hashlib.sha256()
    for layer, weight in sorted(weights.items()):
        digest.update(f"{layer} {tuple(weight.shape)}".encode())
        rounded = weight.detach().to(torch.bfloat16) + 0.0  # no -0.0: not every engine keeps it
        bits = rounded.contiguous().view(torch.uint8)
        digest.update(bits.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _router_kinds(model: nn.Module) -> list[tuple[Any, str]]:
    """Return (class, part of the module name) of everything that transformers records as router."""
    from transformers import PreTrainedModel
    from transformers.utils.output_capturing import OutputRecorder

    kinds = []
    for module in model.modules():
        if not isinstance(module, PreTrainedModel):
            continue
        recorders = module.can_record_outputs.get("router_logits", [])
        for recorder in recorders if isinstance(recorders, list) else [recorders]:
            if isinstance(recorder, OutputRecorder):
                kinds.append((recorder.target_class, recorder.layer_name or ""))
            else:
                kinds.append((recorder, ""))
    return kinds


def _describe(model: nn.Module, name: str, module: nn.Module) -> Router:
    layer = re.search(r"\.layers\.(\d+)\.", f".{name}.")
    block = model.get_submodule(name.rpartition(".")[0])
    consumer = getattr(block, "experts", None)
    experts, top_k = getattr(module, "num_experts", None), getattr(module, "top_k", None)
    if layer is None or consumer is None or experts is None or top_k is None:
        raise SteeringError(
            f"{type(model).__name__}: router {name!r} lacks its layer index, its experts, their "
            "number or its top-k; this version cannot steer it"
        )
    bias = next(_correction_biases(module, block, int(experts)), None)
    return Router(
        int(layer.group(1)), name, module, consumer, int(experts), int(top_k), correction_bias=bias
    )


def _correction_biases(module: nn.Module, block: nn.Module, experts: int) -> Iterator[Tensor]:
    """Yield the correction biases over the experts, in the router or in the block that calls it."""
    for owner, recurse in ((module, True), (block, False)):
        for tensors in (owner.named_parameters, owner.named_buffers):
            for name, tensor in tensors(recurse=recurse):
                if name.endswith("_bias") and tensor.numel() == experts:
                    yield tensor
