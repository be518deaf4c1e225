"""The check of the profiles that requests name, in the process that accepts requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstInterface
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondInterface

from .table import PROFILE

if TYPE_CHECKING:
    from vllm import SamplingParams

KNOWN: set[str] = set()
"""The ids of the profiles that requests may name."""


class ProfileRequests(FirstInterface, SecondInterface):  # type: ignore[misc]
    """Refuse requests that name an unknown profile, before they are queued.

    This is vLLM's public hook for the check of a request's `extra_args`; over HTTP the answer is a
    status of 400. The logits are not changed. Both of vLLM's model runners take the class.
    """

    def __init__(self, *_args: object) -> None:
        """Ignore the configuration, the device and the pinning that vLLM gives."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check the profile of a request.

        Raises:
            ValueError: the request names a profile that is not loaded.
        """
        extra = sampling_params.extra_args or {}
        if PROFILE in extra and extra[PROFILE] not in KNOWN:
            known = ", ".join(sorted(KNOWN)) or "none"
            raise ValueError(f"{PROFILE}: {extra[PROFILE]!r} is not loaded; loaded are: {known}")

    def add_request(self, *_request: object) -> bool:
        """Return False: no request's logits are changed."""
        return False

    def apply(self, logits: torch.Tensor, *_context: object) -> torch.Tensor:
        """Return the logits unchanged."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """Return True, so that vLLM skips `apply` in greedy decoding."""
        return True

    def update_state(self, batch_update: object) -> None:
        """Ignore the arrangement of the batch."""
