"""The profiles of a worker's requests: which row of the layers' buffers each token of a step takes.

Row 0 is neutral. A request that names a profile takes the row of that profile, any other the
default row: 0, or that of the profile by which the whole engine is steered. Before each step the
rows of its tokens are written into one buffer that all layers read, so that compiled graphs and
CUDA graphs stay valid.

vLLM has no public hook between the arrangement of a step's requests and its forward pass, so two
methods of its model runner are wrapped; both are checked to be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from ...steering.errors import SteeringError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

PROFILE = "dsmoe_profile"
"""The key of a request's `extra_args` (over HTTP: `vllm_xargs`) that names its profile by id."""
CAPACITY = "dsmoe_profiles"
"""The key of vLLM's `additional_config` with the number of profiles at once."""
DEFAULT_CAPACITY = 64
_TOKEN_ROWS: WeakValueDictionary[tuple[int, int], Tensor] = WeakValueDictionary()
"""The buffer of each model in this process: its layers share one."""


class ProfileTable:
    """The rows of profiles, and the requests that name them.

    Args:
        runner: vLLM's model runner, two methods of which are wrapped for good.
        token_rows: [tokens of a step at most], int64; the buffer that the layers read.
        capacity: number of profiles at once.

    Raises:
        SteeringError: the model runner is not one of the known ones.
    """

    def __init__(self, runner: GPUModelRunner, token_rows: Tensor, capacity: int) -> None:
        self.default = 0
        """The row of requests that name no profile."""
        self._rows: dict[str, int] = {}
        self._capacity = capacity
        self._token_rows = token_rows
        self._written = 0
        self._named: dict[str, str] = {}
        self._wrap(runner)

    @property
    def profiles(self) -> tuple[str, ...]:
        """The ids of the profiles that requests may name."""
        return tuple(self._rows)

    def row(self, profile: str) -> int | None:
        """Return the row of a profile; None if it is not loaded."""
        return self._rows.get(profile)

    def add(self, profile: str) -> int:
        """Return a free row for a profile.

        Raises:
            SteeringError: no row is free.
        """
        free = set(range(1, self._capacity + 1)) - {*self._rows.values()}
        if not free:
            raise SteeringError(
                f"{self._capacity} profiles are loaded, as many as vLLM was started for; drop "
                f"one, or start it with --additional-config '{{\"{CAPACITY}\": N}}'"
            )
        self._rows[profile] = min(free)
        return self._rows[profile]

    def remove(self, profile: str, idle: bool = False) -> int:
        """Return the row of a profile, which is free afterwards.

        Args:
            profile: the profile.
            idle: whether no request is running; vLLM names requests that have ended to its
                workers in the next step only.

        Raises:
            SteeringError: the profile is not loaded, or a running request names it.
        """
        if profile not in self._rows:
            raise SteeringError(f"profile {profile} is not loaded")
        if idle:
            self._named.clear()
        if profile in self._named.values():
            raise SteeringError(f"profile {profile} is in use by running requests")
        return self._rows.pop(profile)

    def _wrap(self, runner: GPUModelRunner) -> None:
        prepare = next(
            (n for n in ("_prepare_inputs", "prepare_inputs") if hasattr(runner, n)), None
        )
        if prepare is None or not hasattr(runner, "execute_model"):
            raise SteeringError(
                f"vLLM's {type(runner).__name__} is not known, so requests have no profiles"
            )
        execute, arrange = runner.execute_model, getattr(runner, prepare)

        def executing(output: SchedulerOutput, *args: object, **kwargs: object) -> object:
            self._follow(output)
            return execute(output, *args, **kwargs)

        def arranging(output: SchedulerOutput, *args: object, **kwargs: object) -> object:
            arranged = arrange(output, *args, **kwargs)
            batch = runner.input_batch if prepare.startswith("_") else arranged
            self._write(batch.req_ids, output.num_scheduled_tokens)
            return arranged

        runner.execute_model = executing
        setattr(runner, prepare, arranging)

    def _follow(self, output: SchedulerOutput) -> None:
        """Record the profiles of requests that a step starts; remove those that have ended."""
        for request in output.finished_req_ids:
            self._named.pop(request, None)
        for new in output.scheduled_new_reqs:
            extra = (new.sampling_params and new.sampling_params.extra_args) or {}
            if PROFILE in extra:
                if extra[PROFILE] not in self._rows:
                    raise SteeringError(f"profile {extra[PROFILE]} is not loaded")
                self._named[new.req_id] = extra[PROFILE]

    def _write(self, requests: Sequence[str], counts: dict[str, int]) -> None:
        """Write the rows of a step's tokens; nothing where all are 0 before and after."""
        named = self._named
        each = [self._rows[named[one]] if one in named else self.default for one in requests]
        if not any(each) and not self._written:
            return
        rows = np.repeat(np.array(each, dtype=np.int64), [counts[one] for one in requests])
        size = len(rows)
        self._token_rows[:size].copy_(torch.from_numpy(rows), non_blocking=True)
        self._token_rows[size : self._written].zero_()
        self._written = size if any(each) else 0


def mark_as_steerable() -> int:
    """Mark vLLM's configuration as steerable, and return the number of profiles at once.

    Compiled graphs are cached on disk by a hash of the configuration; the mark separates the graphs
    with edits from those without.

    Raises:
        SteeringError: `additional_config` is an object of another plugin, or the number is none.
    """
    extra = current_config().additional_config
    if not isinstance(extra, dict):
        raise SteeringError(
            "another vLLM plugin holds additional_config; steering needs to mark it"
        )
    capacity = extra.setdefault(CAPACITY, DEFAULT_CAPACITY)
    if not isinstance(capacity, int) or capacity < 1:
        raise SteeringError(f"additional_config: {CAPACITY} must be 1 or more, not {capacity!r}")
    return capacity


def token_rows() -> Tensor:
    """Return the buffer of the rows of a step's tokens, the same one for all layers of a model."""
    config = current_config()
    size = config.scheduler_config.max_num_batched_tokens
    key = id(config), size
    if (rows := _TOKEN_ROWS.get(key)) is None:
        rows = _TOKEN_ROWS[key] = torch.zeros(size, dtype=torch.int64)
    return rows


def current_config() -> VllmConfig:
    """Return the configuration of the model that vLLM is building."""
    from vllm.config import get_current_vllm_config

    return get_current_vllm_config()
