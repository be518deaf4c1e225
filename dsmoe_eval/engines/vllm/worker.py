"""Steering methods of vLLM's workers, called by `collective_rpc` from Python or over HTTP.

    vllm serve MODEL --worker-extension-cls dsmoe_eval.engines.vllm.worker.SteeringExtension

Arguments and results are JSON. A refusal is an error whose text contains
`[steering refused: ...]`; nothing was changed then.

`dsmoe_load` makes a profile ready for requests that name it; the cache salt of such a request must
be the profile's id (see `sampling`). `dsmoe_steer` steers all requests that name none. The prefix
cache keeps values from before such a change: after it, post to /reset_prefix_cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe import GateLinear
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

from ...steering.errors import SteeringError
from ...steering.interventions import LayerEffect, layer_effect
from ...steering.meaning import check_meaning
from ...steering.profile import Profile
from ...steering.residual import add_after, check_vectors, layers_of, shifts
from ...steering.routers import router_hash
from ...steering.steer import check_fits
from .faults import check_model
from .layer import SteerableMoERunner, read_scoring
from .reach import (
    SELECTS_INSIDE,
    check_compiled,
    check_per_request,
    check_reached,
    check_rows,
    kernel_name,
)
from .refusals import REFUSED
from .routing import Recorder
from .streams import StreamSums
from .table import ProfileTable

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

_DEFAULT = "*"
"""The name in the table of the profile by which requests are steered that name none."""

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def _refusing(method: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Mark the refusals of a method in their text: errors lose their class outside a worker."""

    @wraps(method)
    def marked(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        try:
            return method(*args, **kwargs)
        except SteeringError as error:
            raise SteeringError(REFUSED.format(error)) from error

    return marked


class SteeringExtension:
    """A mixin that vLLM adds to its worker class by `worker_extension_cls`."""

    vllm_config: Any
    model_config: Any
    model_runner: Any
    parallel_config: Any
    _dsmoe_stream: ExitStack | None = None
    """What adds vectors to the residual stream at present."""
    _dsmoe_tokens: int | None = None
    """Number of tokens computed since `dsmoe_routers`."""
    _dsmoe_profiles_table: ProfileTable | None = None

    @_refusing
    def dsmoe_routers(self) -> dict[str, object]:
        """Return the `hash` of the routers (see `router_hash`) and a description of each."""
        check_model(self.model_runner.get_model())
        self._dsmoe_count()
        layers = self._dsmoe_layers()
        return {"hash": self._dsmoe_hash(), "layers": [_describe(i, x) for i, x in layers.items()]}

    @_refusing
    def dsmoe_load(self, profile_json: str) -> dict[str, object]:
        """Load a profile for requests that name it; one that is loaded already stays.

        Raises:
            SteeringError: as for `dsmoe_steer`; or the profile cannot be applied to single
                requests, or too many are loaded.
        """
        profile = Profile.from_json(profile_json)
        effects = self._dsmoe_effects(profile)
        check_per_request(profile, effects, self._dsmoe_layers())
        table = self._dsmoe_table()
        row = table.row(profile.id)
        if row is None:
            row = table.add(profile.id)
            self._dsmoe_write(row, effects)
        return {"profile": profile.id, "row": row, "layers": sorted(effects)}

    @_refusing
    def dsmoe_drop(self, profile: str, idle: bool = False) -> None:
        """Remove a loaded profile; `idle` says that no request is running.

        Raises:
            SteeringError: no such profile is loaded, or a running request names it.
        """
        row = self._dsmoe_table().remove(profile, idle)
        for layer in self._dsmoe_layers().values():
            layer.clear(row)

    @_refusing
    def dsmoe_profiles(self) -> list[str]:
        """List the ids of the loaded profiles."""
        return list(self._dsmoe_table().profiles)

    @_refusing
    def dsmoe_steer(self, profile_json: str) -> dict[str, object]:
        """Steer by a profile from the next forward pass on, in all of its layers or in none.

        Requests that name a profile are not affected, except by a change of the
        correction bias or of the residual stream. An earlier profile is replaced.

        Raises:
            SteeringError: the text is no profile, or the profile is for another model or has no
                meaning in one of its layers.
        """
        profile = Profile.from_json(profile_json)
        effects, layers = self._dsmoe_effects(profile), self._dsmoe_layers()
        added = {}
        if profile.vectors:
            decoder, added = self._dsmoe_decoder(), shifts(profile)
            check_vectors(profile, len(decoder), self.model_config.get_hidden_size())
        self.dsmoe_remove()
        table = self._dsmoe_table()
        table.default = table.add(_DEFAULT)
        self._dsmoe_write(table.default, effects)
        for index, effect in effects.items():
            if effect.choice_shift is not None:
                layers[index].shift_correction(effect.choice_shift)
        if added:
            self._dsmoe_stream = add_after(decoder, added)
        return {"profile": profile.id, "layers": sorted({**effects, **added})}

    def dsmoe_remove(self) -> None:
        """Stop steering the requests that name no profile, from the next forward pass on."""
        table = self._dsmoe_table()
        if table.row(_DEFAULT) is not None:
            self.dsmoe_drop(_DEFAULT)
            table.default = 0
        for layer in self._dsmoe_layers().values():
            layer.restore_correction()
        if self._dsmoe_stream is not None:
            self._dsmoe_stream.close()
            self._dsmoe_stream = None

    def _dsmoe_table(self) -> ProfileTable:
        """Return the table of profiles, made at the first call."""
        if self._dsmoe_profiles_table is None:
            first = next(iter(self._dsmoe_layers().values()))
            check_rows(first, self.parallel_config)
            self._dsmoe_profiles_table = ProfileTable(
                self.model_runner, first.dsmoe_rows, len(first.dsmoe_shift) - 1
            )
        return self._dsmoe_profiles_table

    def _dsmoe_effects(self, profile: Profile) -> dict[int, LayerEffect]:
        """Return the effect of a profile in each of its layers, each checked to have a meaning."""
        layers = self._dsmoe_layers()
        experts = _experts(next(iter(layers.values())))
        check_fits(profile, tuple(layers), experts, self._dsmoe_hash())
        effects = {}
        for index, chosen in profile.by_layer().items():
            layer = layers[index]
            effect = layer_effect(profile.intervention, chosen, experts, layer.dsmoe_shift.device)
            try:
                scoring = read_scoring(layer)
                check_meaning(profile.intervention, chosen, scoring, experts, layer.router.top_k)
                if not self.model_config.enforce_eager:
                    check_compiled(layer)
                check_reached(layer, effect)
            except SteeringError as error:
                raise SteeringError(f"layer {index}: {error}") from error
            effects[index] = effect
        return effects

    def _dsmoe_write(self, row: int, effects: dict[int, LayerEffect]) -> None:
        layers = self._dsmoe_layers()
        for index, effect in effects.items():
            layers[index].steer(row, effect)

    def dsmoe_calls(self) -> dict[str, int]:
        """Count how often the edits of each layer have run, as proof that the graph has them."""
        return {str(index): int(x.dsmoe_calls) for index, x in self._dsmoe_layers().items()}

    def dsmoe_computed(self) -> int:
        """Return the number of tokens computed so far: prompts, answers, and what was put off."""
        return self._dsmoe_tokens or 0

    @_refusing
    def dsmoe_record(self) -> None:
        """Record the selected experts and their weights of every token from now on.

        Raises:
            SteeringError: vLLM does not show the routing, or does not show of which token it is.
        """
        layers = self._dsmoe_layers()
        if not self.model_config.enforce_eager:
            raise SteeringError("routing can be watched with enforce_eager only")
        if any(layer.is_monolithic for layer in layers.values()):
            raise SteeringError(SELECTS_INSIDE.format(kernel_name(next(iter(layers.values())))))
        if self.parallel_config.data_parallel_size > 1 or self.vllm_config.speculative_config:
            raise SteeringError("routing is watched without data parallelism and speculation only")
        self._dsmoe_recorder = Recorder(self.model_runner, tuple(layers))
        for index, layer in layers.items():
            layer.dsmoe_note = partial(self._dsmoe_recorder.note, index)
            layer.dsmoe_note_logits = self._dsmoe_recorder.note_logits

    @_refusing
    def dsmoe_recorded(self) -> dict[str, object]:
        """Stop the recording and return the routing since `dsmoe_record`, for `routing.assemble`.

        Raises:
            SteeringError: the record is not complete.
        """
        for layer in self._dsmoe_layers().values():
            layer.dsmoe_note = layer.dsmoe_note_logits = None
        recorder = self._dsmoe_recorder
        del self._dsmoe_recorder  # it may need much memory
        return recorder.finish()

    def _dsmoe_count(self) -> None:
        """Count the tokens of each step from now on; a second call changes nothing."""
        if self._dsmoe_tokens is None:
            self._dsmoe_tokens, execute = 0, self.model_runner.execute_model

            def counted(scheduled: SchedulerOutput, *args: object, **kwargs: object) -> object:
                self._dsmoe_tokens = self.dsmoe_computed() + scheduled.total_num_scheduled_tokens
                return execute(scheduled, *args, **kwargs)

            self.model_runner.execute_model = counted

    def _dsmoe_layers(self) -> dict[int, SteerableMoERunner]:
        if self.parallel_config.pipeline_parallel_size > 1:
            raise SteeringError("with pipeline parallelism no worker sees all routers; use tensor")
        runners = [m for m in self.model_runner.get_model().modules() if isinstance(m, MoERunner)]
        other = {type(m).__name__ for m in runners if not isinstance(m, SteerableMoERunner)}
        if other or not runners:
            raise SteeringError(
                f"vLLM runs the experts by {', '.join(sorted(other)) or 'no MoERunner'}, which "
                "this version cannot steer; use the transformers engine"
            )
        return {m.layer_id: m for m in sorted(runners, key=lambda m: m.layer_id)}

    @_refusing
    def dsmoe_sum_streams(self, domains: int) -> None:
        """Add up the residual stream of documents from now on, by domain.

        Raises:
            SteeringError: vLLM does not show the residual stream.
        """
        shape = domains, int(self.model_config.get_hidden_size())
        self._dsmoe_sums = StreamSums(self.model_runner, self._dsmoe_decoder(), shape)

    @_refusing
    def dsmoe_document(self, domain: int, kept: list[bool]) -> None:
        """Start a document of a domain; see `StreamSums.begin`."""
        self._dsmoe_sums.begin(domain, kept)

    @_refusing
    def dsmoe_summed(self) -> str:
        """Stop adding and return the sums; see `StreamSums.finish`."""
        sums = self._dsmoe_sums
        del self._dsmoe_sums
        return sums.finish()

    def _dsmoe_decoder(self) -> nn.ModuleList:
        """Return the decoder layers, after checking that the stream after them can be read.

        A layer returns what it adds to the stream beside the stream so far (or their sum), so that
        a vector added to the first of its outputs is added to the stream.
        """
        if not self.model_config.enforce_eager:
            raise SteeringError(
                "the residual stream can be read or steered with enforce_eager only"
            )
        model = self.model_runner.get_model()
        runners = {id(runner): index for index, runner in self._dsmoe_layers().items()}
        names = [(n, runners[id(m)]) for n, m in model.named_modules() if id(m) in runners]
        layers = layers_of(model, names)
        scales = {getattr(layer, "routed_scaling_factor", 1.0) for layer in layers}
        if self.model_config.dtype == torch.float16 and scales != {1.0}:
            raise SteeringError(
                f"vLLM divides the residual stream of {type(model).__name__} by a factor in "
                "float16, so that a vector would be of another scale; take bfloat16"
            )
        return layers

    def _dsmoe_hash(self) -> str:
        model = self.model_runner.get_model()
        layers = self._dsmoe_layers()
        return router_hash({i: _gate_weight(model, i, x) for i, x in layers.items()})


def _describe(index: int, layer: SteerableMoERunner) -> dict[str, object]:
    try:
        scoring = read_scoring(layer)
    except SteeringError as error:
        raise SteeringError(f"layer {index}: {error}") from error
    shape = {"layer": index, "experts": _experts(layer), "top_k": layer.router.top_k}
    return {**shape, "monolithic": bool(layer.is_monolithic), "scoring": asdict(scoring)}


def _experts(layer: SteerableMoERunner) -> int:
    return int(layer.dsmoe_shift.shape[1])


def _gate_weight(model: nn.Module, index: int, layer: SteerableMoERunner) -> Tensor:
    """Return the weight of the linear that computes the layer's logits, [experts, hidden]."""
    experts = _experts(layer)
    gates = [
        module
        for name, module in model.named_modules()
        if isinstance(module, GateLinear)
        and module.output_size == experts
        and re.search(rf"\blayers\.{index}\.", name)
    ]
    if len(gates) != 1:
        raise SteeringError(f"layer {index} has {len(gates)} gates of {experts} experts, not one")
    gate: Any = gates[0]
    if gate.weight.numel():
        return cast(Tensor, gate.weight.detach())
    # On CPUs vLLM packs the weight for its kernel and drops the original. Products with one and
    # with zeros are exact, so the linear applied to the identity matrix gives its weight.
    identity = torch.eye(gate.input_size, dtype=gate.weight.dtype)
    weight: Tensor = gate.quant_method.apply(gate, identity, None).T
    return weight
