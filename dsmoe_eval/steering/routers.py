"""Finds a model's routers by its structure.

In transformers each MoE model class names its router's module class (`can_record_outputs`). There
is no list of architectures here: a model that names none is refused, and the one fact that
structure does not show is in the table below.

A router gives a token's experts and their weights, or a table of all experts' scores, or its
entries sorted by expert (see `forms.py`); or it gives logits only, and its block selects.
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

from .errors import NoRouterError, SteeringError

NATIVE_ONLY = frozenset({"Mxfp4GptOssExperts"})
"""Experts modules that compute the logits themselves, from the router's weight and bias (gpt-oss in
MXFP4). The router's forward is never called, so steering can only change the router's bias."""

IN_ATTENTION = re.compile(r"attention|attn")
_TOP_K = ("top_k_experts", "num_experts_per_tok")
"""Fields of a configuration that give the top-k where the modules do not."""


@dataclass(frozen=True, slots=True)
class Router:
    """One router: `module` gives each token's experts and weights to `consumer`, the experts.

    Attributes:
        layer: index of the layer in the model.
        name: name of the router's module in the model.
        block: the module that calls router and experts.
        experts: number of experts that can be chosen; experts that compute nothing count.
        correction_bias: [experts], or None; a bias that is added to the scores for the choice only.
        logits_at: position of the logits in the router's output.
        selects: False if the router gives logits only, and its block selects experts by them.
    """

    layer: int
    name: str
    module: nn.Module
    consumer: nn.Module
    block: nn.Module
    experts: int
    top_k: int
    correction_bias: Tensor | None
    logits_at: int = 0
    selects: bool = True

    @property
    def native_only(self) -> bool:
        """Whether the experts read only the router's weight and bias and never call it."""
        return type(self.consumer).__name__ in NATIVE_ONLY

    @property
    def device(self) -> torch.device:
        """The device on which the router computes."""
        return device_of(self.module, self.weight)

    @property
    def weight(self) -> Tensor:
        """The weight of the linear layer that gives the logits, [logits, hidden].

        The first rows are those of the experts. A router of experts that are always on has more.
        It is on the meta device while accelerate has offloaded it.
        """
        return _logit_weight(self.name, self.module, self.experts)

    def loaded(self) -> AbstractContextManager[None]:
        """Return a context with the weights in memory, even where accelerate offloaded them."""
        return in_memory(self.module)


def in_memory(module: nn.Module) -> AbstractContextManager[None]:
    """Return a context with a module's weights in memory, even where accelerate offloaded them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    context: AbstractContextManager[None] = align_module_device(module)
    return context


def device_of(module: nn.Module, weight: Tensor) -> torch.device:
    """Return the device on which a module with this weight computes."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return weight.device if device is None else torch.device(device)


def find_routers(model: nn.Module) -> tuple[Router, ...]:
    """Return all routers of `model`, in layer order.

    Routers of experts inside of an attention are left out.

    Raises:
        NoRouterError: the model is no MoE in the registry of transformers.
        SteeringError: a router has a structure that this version cannot steer.
    """
    kinds = _router_kinds(model)
    routers = []
    for name, module in model.named_modules():
        at = [at for target, part, at in kinds if isinstance(module, target) and part in name]
        if at and not IN_ATTENTION.search(name):
            routers.append(_describe(model, name, module, at[0]))
    if not routers:
        raise NoRouterError(
            f"{type(model).__name__} has no router that transformers declares; only "
            "mixture-of-experts models whose class is part of transformers have experts to steer. "
            "Of a dense model the neurons can be, by commands that have it: --sites neurons, in a "
            "plan `sites: neurons`"
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


def _router_kinds(model: nn.Module) -> list[tuple[Any, str, int]]:
    """Return what transformers records as router: class, part of the name, index of the logits."""
    from transformers import PreTrainedModel
    from transformers.utils.output_capturing import OutputRecorder

    kinds = []
    for module in model.modules():
        if not isinstance(module, PreTrainedModel):
            continue
        recorders = module.can_record_outputs.get("router_logits", [])
        for recorder in recorders if isinstance(recorders, list) else [recorders]:
            if isinstance(recorder, OutputRecorder):
                kinds.append((recorder.target_class, recorder.layer_name or "", recorder.index))
            else:
                kinds.append((recorder, "", 0))
    return kinds


def _describe(model: nn.Module, name: str, module: nn.Module, logits_at: int) -> Router:
    layer = re.search(r"\.(\d+)\.", f".{name}.")
    block = model.get_submodule(name.rpartition(".")[0])
    experts = _first_of((module, block), ("num_experts", "out_features"))
    consumer = _consumer(block, module, experts)
    if experts is None and consumer is not None:
        experts = getattr(consumer, "num_experts", None)
    top_k = getattr(module, "top_k", None)
    selects = top_k is not None or not hasattr(block, "top_k")
    if top_k is None:
        config = getattr(module, "config", None)
        top_k = _first_of((config,), _TOP_K) if selects else getattr(block, "top_k", None)
    if experts is not None:
        experts = _choosable(name, module, block, experts)
    if layer is None or consumer is None or experts is None or top_k is None:
        raise SteeringError(
            f"{type(model).__name__}: router {name!r} lacks its layer index, its experts, their "
            "number or its top-k; this version cannot steer it"
        )
    if top_k < 1:
        raise SteeringError(
            f"{type(model).__name__}: router {name!r} selects {top_k} experts per token, so there "
            "is nothing to steer; correct the number in config.json"
        )
    bias = next(_correction_biases(module, block, experts), None)
    return Router(
        int(layer.group(1)), name, module, consumer, block, experts, int(top_k),
        correction_bias=bias, logits_at=logits_at, selects=selects,
    )  # fmt: skip


def _first_of(owners: Sequence[object], names: Sequence[str]) -> int | None:
    found = (getattr(owner, name, None) for owner in owners for name in names)
    return next((int(value) for value in found if isinstance(value, int)), None)


def _consumer(block: nn.Module, router: nn.Module, experts: int | None) -> nn.Module | None:
    """Return the experts of a block, or the first module of several that compute them."""
    consumer = getattr(block, "experts", None)
    if isinstance(consumer, nn.Module):
        return consumer
    parts = (child for child in block.children() if child is not router)
    return next((part for part in parts if getattr(part, "num_experts", 0) == experts), None)


def _choosable(name: str, module: nn.Module, block: nn.Module, experts: int) -> int:
    """Count the experts that can be chosen, where a router has logits for more than `experts`.

    The correction bias says it: further logits are those of experts that compute nothing, which can
    be chosen like others, or those of experts that are always on.
    """
    logits = len(_logit_weight(name, module, experts))
    if logits == experts:
        return experts
    for number in (logits, experts):
        if next(_correction_biases(module, block, number), None) is not None:
            return number
    raise SteeringError(
        f"router {name!r} gives {logits} logits for {experts} experts, and its block may give a "
        "token to none of them; this version cannot steer it"
    )


def _logit_weight(name: str, module: nn.Module, experts: int) -> Tensor:
    """Return the only matrix with a row per expert; if there is none, with rows for some more."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim == 2]
    more = {value for value in vars(module).values() if isinstance(value, int) and value > experts}
    for rows in (experts, *sorted(more)):
        candidates = [matrix for matrix in matrices if len(matrix) == rows]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            break
    raise SteeringError(
        f"router {name!r} does not have exactly one linear layer over its experts; "
        "this version cannot steer it"
    )


def _correction_biases(module: nn.Module, block: nn.Module, experts: int) -> Iterator[Tensor]:
    """Yield the correction biases over the experts, in the router or in the block that calls it."""
    for owner, recurse in ((module, True), (block, False)):
        for tensors in (owner.named_parameters, owner.named_buffers):
            for name, tensor in tensors(recurse=recurse):
                if name.endswith("_bias") and tensor.numel() == experts:
                    yield tensor
