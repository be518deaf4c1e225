"""Forced continuations: vLLM decodes the tokens that a request names.

The log-probability of each forced token is then that of a sampled token. Its context is read from
vLLM's prefix cache, which `prompt_logprobs` never reads.

vLLM has two model runners, each with an interface for logits processors. Which of them runs is
decided when the engine starts, so the class here has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstInterface
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondInterface

from .scoring import FORCE

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

_ROOM = 16
"""Number of tokens for which the second runner's table has room at first."""

Forced = tuple[Sequence[int], Sequence[int]]
"""The tokens to force, and the tokens that were generated so far (vLLM's list, which grows)."""


class ForcedTokens(FirstInterface, SecondInterface):  # type: ignore[misc]  # vLLM is not typed here
    """The logits processor that forces token i of `extra_args["dsmoe_force"]` at step i.

    Further tokens are free, and so are requests without this argument. The forced logit becomes the
    largest number instead of infinity, of which softmax would make NaN.
    """

    def __init__(
        self,
        _config: VllmConfig,
        given: LogitsProcRequestState,
        pinned: bool | None = None,
    ) -> None:
        self._forced: dict[int, Forced] = {}
        if pinned is None:  # the second runner gives its state, the first device and pinning
            self._state = given
            slots = int(self._state.max_num_reqs)
            self._host = torch.zeros(slots, _ROOM, dtype=torch.int64)
            self._lengths = torch.zeros(slots, dtype=torch.int64)
            self._staged = True

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a list of forced tokens that is none.

        Raises:
            ValueError: the argument is not a list of token ids.
        """
        forced = _forced(sampling_params)
        if forced is not None and not (
            isinstance(forced, list)
            and forced
            and all(isinstance(one, int) and one >= 0 for one in forced)
        ):
            raise ValueError(f"{FORCE} must be a list of token ids, not {forced!r:.80}")

    def is_argmax_invariant(self) -> bool:
        """Return False: a forced token becomes the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Record the requests of the first runner's batch."""
        process_dict_updates(self._forced, batch_update, _follow)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Store the tokens of a request of the second runner; return whether there are any."""
        forced = _forced(sampling_params) or ()
        self._staged |= bool(forced) or bool(self._lengths[req_idx])
        self._lengths[req_idx] = len(forced)
        if len(forced) > self._host.shape[1]:
            wider = torch.zeros(len(self._host), 2 * len(forced), dtype=torch.int64)
            wider[:, : self._host.shape[1]] = self._host
            self._host = wider
        self._host[req_idx, : len(forced)] = torch.tensor(forced, dtype=torch.int64)
        return bool(forced)

    def apply_staged_writes(self) -> None:
        """Copy the stored tokens to the second runner's device."""
        if self._staged:
            device = self._state.device
            self._tokens, self._ends = self._host.to(device), self._lengths.to(device)
            self._staged = False

    def apply(self, logits: Tensor, ctx: LogitsContext | None = None) -> Tensor:
        """Return the logits, [rows, vocabulary], in which forced tokens are the largest."""
        if ctx is None:
            return self._apply_first(logits)
        slots = ctx.expanded_idx_mapping.long()
        known = slots.clamp(min=0)
        steps = ctx.pos.long() + 1 - self._state.prompt_len.gpu[known].long()
        inside = (slots >= 0) & (steps >= 0) & (steps < self._ends[known])
        tokens = self._tokens[known, steps.clamp(0, self._tokens.shape[1] - 1)].unsqueeze(1)
        inside = inside.unsqueeze(1) & (tokens < logits.shape[1])
        tokens = torch.where(inside, tokens, 0)
        largest = torch.finfo(logits.dtype).max
        return logits.scatter_(1, tokens, logits.gather(1, tokens).masked_fill_(inside, largest))

    def _apply_first(self, logits: Tensor) -> Tensor:
        places = [
            (row, forced[len(generated)])
            for row, (forced, generated) in self._forced.items()
            if len(generated) < len(forced) and forced[len(generated)] < logits.shape[1]
        ]
        if places:
            rows, tokens = torch.tensor(places, device=logits.device).unbind(1)
            logits[rows, tokens] = torch.finfo(logits.dtype).max
        return logits


def _forced(sampling_params: SamplingParams) -> Sequence[int] | None:
    found: Sequence[int] | None = (sampling_params.extra_args or {}).get(FORCE)
    return found


def _follow(
    sampling_params: SamplingParams, _: Sequence[int] | None, generated: Sequence[int]
) -> Forced | None:
    forced = _forced(sampling_params)
    return None if forced is None else (forced, generated)
