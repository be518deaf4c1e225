"""What a worker steers: the experts of its model, or the neurons of a dense one.

`ServedExperts` and `ServedNeurons` have the same methods; the worker uses a model only by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.fused_moe import GateLinear
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

from ...steering.errors import NoRouterError, SteeringError
from ...steering.interventions import LayerEffect, layer_effect
from ...steering.meaning import check_meaning
from ...steering.neurons import selected_count, unit_factor, unit_sizes
from ...steering.profile import Profile
from ...steering.routers import router_hash
from ...steering.steer import check_fits
from ...steering.units import EXPERTS, Sites
from .layer import SteerableMoERunner, read_scoring
from .neurons import find_down_projections
from .reach import (
    SELECTS_INSIDE,
    check_compiled,
    check_correction,
    check_reached,
    check_vectors_apart,
    kernel_name,
)
from .routing import Recorder

Described: TypeAlias = list[dict[str, object]]


class ServedExperts:
    """The experts of a model in a worker.

    Args:
        model: the model.
        eager: whether it is run eagerly.

    Raises:
        SteeringError: vLLM runs the experts by a class that cannot be steered.
    """

    def __init__(self, model: nn.Module, eager: bool) -> None:
        self._model, self._eager = model, eager
        runners = [module for module in model.modules() if isinstance(module, MoERunner)]
        other = {type(m).__name__ for m in runners if not isinstance(m, SteerableMoERunner)}
        if other:
            raise SteeringError(
                f"vLLM runs the experts by {', '.join(sorted(other))}, which this version cannot "
                "steer; use the transformers engine"
            )
        self.layers: dict[int, SteerableMoERunner] = {
            one.layer_id: one for one in sorted(runners, key=lambda one: one.layer_id)
        }
        self.first = next(iter(self.layers.values()))
        self.experts = int(self.first.dsmoe_shift.shape[1])

    @property
    def sequence_parallel(self) -> bool:
        """Whether the layers get parts of a step's tokens."""
        return bool(self.first.moe_config.is_sequence_parallel)

    def hash(self) -> str:
        """Compute the hash of the routers; see `router_hash`."""
        return router_hash({index: self._gate(index) for index in self.layers})

    def describe(self, _sites: Sites) -> Described:
        """Describe the router of each layer."""
        return [self._describe(index, layer) for index, layer in self.layers.items()]

    def effects(self, profile: Profile) -> dict[int, LayerEffect]:
        """Return the effect of a profile in each of its layers, each checked to have a meaning."""
        check_fits(profile, tuple(self.layers), self.experts, self.hash())
        effects = {}
        for index, chosen in profile.by_layer().items():
            layer = self.layers[index]
            device = layer.dsmoe_shift.device
            effect = layer_effect(profile.intervention, chosen, self.experts, device)
            try:
                top_k = layer.router.top_k
                check_meaning(
                    profile.intervention, chosen, read_scoring(layer), self.experts, top_k
                )
                if not self._eager:
                    check_compiled(layer)
                check_reached(layer, effect)
            except SteeringError as error:
                raise SteeringError(f"layer {index}: {error}") from error
            effects[index] = effect
        return effects

    def check_per_request(self, profile: Profile, effects: dict[int, LayerEffect]) -> None:
        """Refuse a profile whose effect vLLM has only for all requests together."""
        check_vectors_apart(profile)
        check_correction(profile, effects, self.layers)

    def shift_corrections(self, effects: dict[int, LayerEffect]) -> None:
        """Add the shifts of `effects` to the correction biases."""
        for index, effect in effects.items():
            if effect.choice_shift is not None:
                self.layers[index].shift_correction(effect.choice_shift)

    def watch(self, recorder: Recorder, _block: int) -> None:
        """Record the routing of every token from now on.

        Raises:
            SteeringError: a kernel selects the experts.
        """
        if any(layer.is_monolithic for layer in self.layers.values()):
            raise SteeringError(SELECTS_INSIDE.format(kernel_name(self.first)))
        for index, layer in self.layers.items():
            layer.dsmoe_note = partial(recorder.note, index)
            layer.dsmoe_note_logits = recorder.note_logits

    def unwatch(self) -> None:
        """Stop the recording."""
        for layer in self.layers.values():
            layer.dsmoe_note = layer.dsmoe_note_logits = None

    def _describe(self, index: int, layer: SteerableMoERunner) -> dict[str, object]:
        try:
            scoring = read_scoring(layer)
        except SteeringError as error:
            raise SteeringError(f"layer {index}: {error}") from error
        shape = {"layer": index, "experts": self.experts, "top_k": layer.router.top_k}
        return {**shape, "monolithic": bool(layer.is_monolithic), "scoring": asdict(scoring)}

    def _gate(self, index: int) -> Tensor:
        """Return the weight of the linear that computes a layer's logits, [experts, hidden]."""
        gates = [
            module
            for name, module in self._model.named_modules()
            if isinstance(module, GateLinear)
            and module.output_size == self.experts
            and re.search(rf"\blayers\.{index}\.", name)
        ]
        if len(gates) != 1:
            raise SteeringError(
                f"layer {index} has {len(gates)} gates of {self.experts} experts, not one"
            )
        gate: Any = gates[0]
        if gate.weight.numel():
            return cast(Tensor, gate.weight.detach())
        # On CPUs vLLM packs the weight for its kernel and drops the original. Products with one and
        # with zeros are exact, so the linear applied to the identity matrix gives its weight.
        identity = torch.eye(gate.input_size, dtype=gate.weight.dtype)
        weight: Tensor = gate.quant_method.apply(gate, identity, None).T
        return weight


class ServedNeurons:
    """The neurons of a dense model in a worker, which has a part of each FFN's.

    Args:
        model: the model.
        eager: whether it is run eagerly.
        hidden: the width of its hidden states.

    Raises:
        SteeringError: vLLM computes an FFN in a way that cannot be steered.
    """

    sequence_parallel = False

    def __init__(self, model: nn.Module, eager: bool, hidden: int) -> None:
        self._eager = eager
        self.layers = find_down_projections(model, hidden)
        self.first = next(iter(self.layers.values()))
        self.width = int(self.first.input_size)
        self._kept: list[Tensor] = []
        self._passes: list[Tensor] = []

    @cached_property
    def _read(self) -> dict[int, tuple[Tensor, Tensor]]:
        """The sample of each layer's weights, and the lengths of its columns."""
        return {index: layer.read_weight() for index, layer in self.layers.items()}

    @cached_property
    def _hash(self) -> str:
        samples = {index: self._joined(sample) for index, (sample, _) in self._read.items()}
        return router_hash(samples)

    def hash(self) -> str:
        """Compute the hash of a sample of the down projections; see `steering.sites_hash`."""
        return self._hash

    def describe(self, sites: Sites) -> Described:
        """Describe the units of each layer.

        Raises:
            SteeringError: the neurons cannot be parted into blocks of this size.
        """
        if self.width % sites.block or self.width < 2 * sites.block:
            raise SteeringError(
                f"the FFNs have {self.width} neurons, which cannot be parted into blocks of "
                f"{sites.block}; give a divisor"
            )
        units = self.width // sites.block
        shape = {"experts": units, "top_k": selected_count(units)}
        return [
            {"layer": index, **shape, "monolithic": False, "scoring": None} for index in self.layers
        ]

    def effects(self, profile: Profile) -> dict[int, LayerEffect]:
        """Return the factors of all neurons in each layer of a profile."""
        block = profile.sites.block
        sites = Sites(kind="neurons", block=block)
        units = self.width // block
        check_fits(profile, tuple(self.layers), units, self.hash(), sites)
        effects = {}
        for index, chosen in profile.by_layer().items():
            if not self._eager:
                check_compiled(self.layers[index])
            factor = unit_factor(profile.intervention, chosen, units).repeat_interleave(block)
            effects[index] = LayerEffect(weight_factor=factor)
        return effects

    def check_per_request(self, profile: Profile, _effects: dict[int, LayerEffect]) -> None:
        """Refuse a profile whose effect vLLM has only for all requests together."""
        check_vectors_apart(profile)

    def shift_corrections(self, _effects: dict[int, LayerEffect]) -> None:
        """Ignore the call: there are no correction biases."""

    def watch(self, recorder: Recorder, block: int) -> None:
        """Record the largest units of every token, and their sizes, from now on."""
        for index, layer in self.layers.items():
            layer.dsmoe_note = self._noting(recorder, index, block)

    def unwatch(self) -> None:
        """Stop the recording."""
        for layer in self.layers.values():
            layer.dsmoe_note = None

    def keep(self, index: int) -> None:
        """Store the neurons of a layer, as multiplied, of every token until `stop_keeping`."""
        self._kept = []
        self.layers[index].dsmoe_note = lambda neurons: self._kept.append(neurons.clone())

    def stop_keeping(self) -> None:
        """Stop a pass of `keep`; `check_scaled` compares the last two."""
        self.unwatch()
        self._passes = [*self._passes[-1:], torch.cat(self._kept, dim=-2)]

    def check_scaled(self, profile: Profile) -> None:
        """Check that the chosen neurons of the first steered layer were multiplied, and no others.

        The two passes must have been of the same tokens, without and with the profile.

        Raises:
            SteeringError: another neuron changed, or a chosen one was not multiplied.
        """
        (before, after), self._passes = self._passes, []
        index, effect = next(iter(sorted(self.effects(profile).items())))
        assert effect.weight_factor is not None  # noqa: S101 - of neurons there is no other
        factor = effect.weight_factor[self.layers[index].part].to(after)
        if before.shape != after.shape or not torch.equal(
            before[..., factor == 1], after[..., factor == 1]
        ):
            raise SteeringError(f"layer {index}: neurons changed that were not chosen")
        if not torch.equal(before * factor, after):
            raise SteeringError(
                f"layer {index}: the chosen neurons were not multiplied as the kind says"
            )

    def _noting(self, recorder: Recorder, index: int, block: int) -> Callable[[Tensor], None]:
        lengths = self._joined(self._read[index][1])

        def note(neurons: Tensor) -> None:
            sizes = unit_sizes(self._joined(neurons), lengths, block)
            best = sizes.topk(selected_count(sizes.shape[1]))
            recorder.note_logits(sizes)
            recorder.note(index, best.values, best.indices)

        return note

    def _joined(self, part: Tensor) -> Tensor:
        """Return the values of all of an FFN's neurons, from all workers' parts, [..., neurons]."""
        if self.first.tp_size == 1:
            return part
        joined: Tensor = tensor_model_parallel_all_gather(part.contiguous(), dim=-1)
        return joined


Served: TypeAlias = ServedExperts | ServedNeurons


def units_of(model: nn.Module) -> Sites:
    """Return the units of a model in a worker: experts, or single neurons where it has none."""
    routed = any(isinstance(module, MoERunner) for module in model.modules())
    return EXPERTS if routed else Sites(kind="neurons")


def check_units(model: nn.Module, sites: Sites) -> None:
    """Refuse a kind of unit that a model does not have.

    Raises:
        SteeringError: the model has the other kind.
    """
    if units_of(model).kind == sites.kind:
        return
    name = type(model).__name__
    if sites.kind == "neurons":
        raise SteeringError(f"{name} has experts; neurons are for dense models, so leave them out")
    raise NoRouterError(
        f"{name} has no experts that vLLM runs. Of a dense model the neurons can be steered: "
        '--sites neurons, in a plan `sites: neurons`, in Python sites=Sites(kind="neurons")'
    )


def find_served(model: nn.Module, eager: bool, hidden: int) -> Served:
    """Return the experts of a model in a worker, or the neurons of one that has no experts.

    Args:
        model: the model.
        eager: whether it is run eagerly.
        hidden: the width of its hidden states.

    Raises:
        SteeringError: vLLM computes them in a way that cannot be steered.
    """
    if units_of(model) == EXPERTS:
        return ServedExperts(model, eager)
    return ServedNeurons(model, eager, hidden)
