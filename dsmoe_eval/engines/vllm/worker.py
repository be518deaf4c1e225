"""Steering methods of vLLM's workers, called by `collective_rpc` from Python or over HTTP.

    vllm serve MODEL --worker-extension-cls dsmoe_eval.engines.vllm.worker.SteeringExtension

Arguments and results are JSON. A refusal is an error whose text contains
`[steering refused: ...]`; nothing was changed then.

`dsmoe_load` makes a profile ready for requests that name it; the cache salt of such a request must
be the profile's id (see `sampling`). `dsmoe_steer` steers all requests that name none. The prefix
cache keeps values from before such a change: after it, post to /reset_prefix_cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import nn

from ...steering.errors import SteeringError
from ...steering.interventions import LayerEffect
from ...steering.profile import Profile
from ...steering.residual import add_after, check_vectors, layers_of, shifts
from ...steering.units import Sites
from .faults import check_model
from .reach import check_rows
from .refusals import REFUSED
from .routing import Recorder
from .served import Served, ServedNeurons, check_units, find_served, units_of
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
    _dsmoe_found: Served | None = None

    @_refusing
    def dsmoe_routers(self, sites_json: str | None = None) -> dict[str, object]:
        """Return the `hash` of the routers (see `router_hash`) and a description of each layer.

        Args:
            sites_json: the units that are steered, as JSON; by default those of the model.

        Raises:
            SteeringError: the model has other units, or cannot be steered.
        """
        model = self.model_runner.get_model()
        check_model(model)
        self._dsmoe_count()
        sites = units_of(model) if sites_json is None else Sites.model_validate_json(sites_json)
        check_units(model, sites)
        served = self._dsmoe_served()
        layers = served.describe(sites)
        return {"hash": served.hash(), "layers": layers, "sites": sites.model_dump(mode="json")}

    @_refusing
    def dsmoe_load(self, profile_json: str) -> dict[str, object]:
        """Load a profile for requests that name it; one that is loaded already stays.

        Raises:
            SteeringError: as for `dsmoe_steer`; or the profile cannot be applied to single
                requests, or too many are loaded.
        """
        profile = Profile.from_json(profile_json)
        served = self._dsmoe_served()
        effects = served.effects(profile)
        served.check_per_request(profile, effects)
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
        for layer in self._dsmoe_served().layers.values():
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
        served = self._dsmoe_served()
        effects = served.effects(profile)
        added = {}
        if profile.vectors:
            decoder, added = self._dsmoe_decoder(), shifts(profile)
            check_vectors(profile, len(decoder), self.model_config.get_hidden_size())
        self.dsmoe_remove()
        table = self._dsmoe_table()
        table.default = table.add(_DEFAULT)
        self._dsmoe_write(table.default, effects)
        served.shift_corrections(effects)
        if added:
            self._dsmoe_stream = add_after(decoder, added)
        return {"profile": profile.id, "layers": sorted({**effects, **added})}

    def dsmoe_remove(self) -> None:
        """Stop steering the requests that name no profile, from the next forward pass on."""
        table = self._dsmoe_table()
        if table.row(_DEFAULT) is not None:
            self.dsmoe_drop(_DEFAULT)
            table.default = 0
        for layer in self._dsmoe_served().layers.values():
            layer.restore_correction()
        if self._dsmoe_stream is not None:
            self._dsmoe_stream.close()
            self._dsmoe_stream = None

    def _dsmoe_table(self) -> ProfileTable:
        """Return the table of profiles, made at the first call."""
        if self._dsmoe_profiles_table is None:
            served = self._dsmoe_served()
            check_rows(served.sequence_parallel, self.parallel_config)
            first = served.first
            self._dsmoe_profiles_table = ProfileTable(
                self.model_runner, first.dsmoe_rows, first.capacity
            )
        return self._dsmoe_profiles_table

    def _dsmoe_write(self, row: int, effects: dict[int, LayerEffect]) -> None:
        layers = self._dsmoe_served().layers
        for index, effect in effects.items():
            layers[index].steer(row, effect)

    def dsmoe_calls(self) -> dict[str, int]:
        """Count how often the edits of each layer have run, as proof that the graph has them."""
        layers = self._dsmoe_served().layers
        return {str(index): int(layer.dsmoe_calls) for index, layer in layers.items()}

    def dsmoe_computed(self) -> int:
        """Return the number of tokens computed so far: prompts, answers, and what was put off."""
        return self._dsmoe_tokens or 0

    @_refusing
    def dsmoe_record(self, block: int = 1) -> None:
        """Record the selected experts and their weights of every token from now on.

        Of a dense model, the largest neurons and their sizes.

        Args:
            block: the number of neighbouring neurons that are one unit.

        Raises:
            SteeringError: vLLM does not show the routing, or does not show of which token it is.
        """
        served = self._dsmoe_served()
        self._dsmoe_check_shown()
        recorder = Recorder(self.model_runner, tuple(served.layers))
        try:
            served.watch(recorder, block)
        except SteeringError:
            recorder.finish()
            raise
        self._dsmoe_recorder = recorder

    @_refusing
    def dsmoe_recorded(self) -> dict[str, object]:
        """Stop the recording and return the routing since `dsmoe_record`, for `routing.assemble`.

        Raises:
            SteeringError: the record is not complete.
        """
        self._dsmoe_served().unwatch()
        recorder = self._dsmoe_recorder
        del self._dsmoe_recorder  # it may need much memory
        return recorder.finish()

    @_refusing
    def dsmoe_keep(self, layer: int) -> None:
        """Store the neurons of a layer of every token from now on; see `ServedNeurons.keep`.

        Raises:
            SteeringError: vLLM compiles the model.
        """
        self._dsmoe_check_shown()
        self._dsmoe_neurons().keep(layer)

    @_refusing
    def dsmoe_kept(self) -> None:
        """Stop a pass of `dsmoe_keep`."""
        self._dsmoe_neurons().stop_keeping()

    @_refusing
    def dsmoe_check_scaled(self, profile_json: str) -> None:
        """Compare the last two passes of `dsmoe_keep`; see `ServedNeurons.check_scaled`.

        Raises:
            SteeringError: the second was not steered as the profile says.
        """
        self._dsmoe_neurons().check_scaled(Profile.from_json(profile_json))

    def _dsmoe_neurons(self) -> ServedNeurons:
        served = self._dsmoe_served()
        if not isinstance(served, ServedNeurons):
            raise SteeringError("the model has experts; neurons are for dense models")
        return served

    def _dsmoe_check_shown(self) -> None:
        if not self.model_config.enforce_eager:
            raise SteeringError("routing can be watched with enforce_eager only")
        if self.parallel_config.data_parallel_size > 1 or self.vllm_config.speculative_config:
            raise SteeringError("routing is watched without data parallelism and speculation only")

    def _dsmoe_count(self) -> None:
        """Count the tokens of each step from now on; a second call changes nothing."""
        if self._dsmoe_tokens is None:
            self._dsmoe_tokens, execute = 0, self.model_runner.execute_model

            def counted(scheduled: SchedulerOutput, *args: object, **kwargs: object) -> object:
                self._dsmoe_tokens = self.dsmoe_computed() + scheduled.total_num_scheduled_tokens
                return execute(scheduled, *args, **kwargs)

            self.model_runner.execute_model = counted

    def _dsmoe_served(self) -> Served:
        """Return what is steered, found at the first call."""
        if self._dsmoe_found is None:
            if self.parallel_config.pipeline_parallel_size > 1:
                raise SteeringError(
                    "with pipeline parallelism no worker sees all layers; use tensor"
                )
            self._dsmoe_found = find_served(
                self.model_runner.get_model(),
                bool(self.model_config.enforce_eager),
                self.model_config.get_hidden_size(),
            )
        return self._dsmoe_found

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
        runners = {id(runner): index for index, runner in self._dsmoe_served().layers.items()}
        names = [(n, runners[id(m)]) for n, m in model.named_modules() if id(m) in runners]
        layers = layers_of(model, names)
        scales = {getattr(layer, "routed_scaling_factor", 1.0) for layer in layers}
        if self.model_config.dtype == torch.float16 and scales != {1.0}:
            raise SteeringError(
                f"vLLM divides the residual stream of {type(model).__name__} by a factor in "
                "float16, so that a vector would be of another scale; take bfloat16"
            )
        return layers
