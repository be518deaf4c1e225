"""The routing of every token of every request, assembled from the records of vLLM's workers.

A forward pass of vLLM contains pieces of many requests: chunks of prompts beside single tokens of
answers. So a worker records with every row of a pass its request, position and token, which it
reads from the model runner; rows are joined only by these, never by their order. A row whose token
differs from the sequence's token at that position, or a position without a row, is an error.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from ...steering.capture import logit_spread
from ...steering.errors import SteeringError

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

Rows = dict[str, Tensor]
"""Columns `request`, `position`, `token` [rows]; `experts`, `weights` [rows, MoE layers, k]; and
`spread` [rows, MoE layers]."""


@dataclass(frozen=True, slots=True)
class RoutedSequence:
    """A prompt with its greedy answer and the routing of its tokens.

    Of a dense model the largest neurons are recorded under the names of experts.

    The last token of an answer was never an input of the model, so it has no routing: there are
    `len(tokens) - 1` routed tokens, or `len(tokens)` if no answer was requested.

    Attributes:
        tokens: prompt and answer.
        prompt_length: number of tokens of the prompt.
        experts: [routed tokens, MoE layers, k], long; in any order within k.
        weights: [routed tokens, MoE layers, k], float32, weights of the experts' outputs.
        spread: [routed tokens, MoE layers], float32, standard deviation over experts of the logits;
            of neurons, of their sizes.
    """

    tokens: tuple[int, ...]
    prompt_length: int
    experts: Tensor
    weights: Tensor
    spread: Tensor


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows of a forward pass: requests one after the other with `counts` rows each."""

    requests: tuple[str, ...]
    counts: NDArray[np.int32]
    positions: Tensor
    tokens: Tensor


class Recorder:
    """A record of all routing of one model, by forward pass.

    Args:
        runner: vLLM's model runner, which has the requests of a pass.
        layers: the layers with experts, in order.
    """

    def __init__(self, runner: GPUModelRunner, layers: Sequence[int]) -> None:
        self._layers = tuple(layers)
        self._requests: dict[str, int] = {}
        self._steps: list[Rows] = []
        self._batch: _Batch | None = None
        self._seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._spread = torch.empty(0)
        self._fault: str | None = None
        self._narrow = torch.int16  # of the units' numbers, where they fit
        self._next_batch, self._release = watch(runner)

    def note_logits(self, logits: Tensor) -> None:
        """Record the spread of one layer's logits, [rows, experts], for the `note` that follows.

        Of neurons, which have no logits, it is that of their sizes.
        """
        self._spread = logit_spread(logits)
        if logits.shape[-1] > torch.iinfo(torch.int16).max:
            self._narrow = torch.int32

    def note(self, layer: int, weights: Tensor, indices: Tensor) -> None:
        """Record weights and experts of one layer's call, [rows, k] each, as copies."""
        if layer == self._layers[0]:
            self._end_step()
            self._batch = self._next_batch()
        # A layer that runs in pieces gives too few rows; the end of the step detects that.
        self._seen[layer] = weights.float().clone(), indices.to(self._narrow), self._spread

    def finish(self) -> dict[str, object]:
        """Return the record as JSON: names of `requests`, and `rows` (safetensors in base64).

        Raises:
            SteeringError: the record of a forward pass lacks layers or rows.
        """
        self._end_step()
        self._release()
        if self._fault is not None:
            raise SteeringError(self._fault)
        names = self._steps[0] if self._steps else ()
        rows = {name: torch.cat([step[name] for step in self._steps]) for name in names}
        return {"requests": list(self._requests), "rows": base64.b64encode(save(rows)).decode()}

    def _end_step(self) -> None:
        batch, seen, self._batch, self._seen = self._batch, self._seen, None, {}
        if batch is None:
            return
        lengths = {
            layer: min(len(one) for one in seen[layer]) if layer in seen else 0
            for layer in self._layers
        }
        wrong = {layer: rows for layer, rows in lengths.items() if rows != len(batch.positions)}
        if wrong:
            self._fault = (
                f"of a forward's {len(batch.positions)} tokens, layers {sorted(wrong)} showed the "
                f"routing of {sorted(set(wrong.values()))}; routing that is split cannot be watched"
            )
            return
        numbers = [self._requests.setdefault(one, len(self._requests)) for one in batch.requests]
        request = torch.from_numpy(np.repeat(np.array(numbers, dtype=np.int32), batch.counts))
        weights, experts, spread = (
            torch.stack([seen[i][j] for i in self._layers], 1) for j in range(3)
        )
        step = {
            "request": request,
            "position": batch.positions.int(),
            "token": batch.tokens.int(),
            "experts": experts,
            "weights": weights,
            "spread": spread,
        }
        self._steps.append({name: tensor.cpu() for name, tensor in step.items()})


def watch(runner: GPUModelRunner) -> tuple[Callable[[], _Batch], Callable[[], None]]:
    """Return a function that reads a runner's current batch, and one that restores the runner.

    vLLM's first model runner keeps the batch in its buffers; its second (V2) returns a new object
    from `prepare_inputs`.
    """
    if hasattr(runner, "_prepare_inputs"):
        return lambda: _first_runners_batch(runner), lambda: None
    if not hasattr(runner, "prepare_inputs"):
        raise SteeringError(f"vLLM's {type(runner).__name__} is not known; routing is not watched")
    prepare, latest = runner.prepare_inputs, dict[str, Any]()

    def watched(*args: object, **kwargs: object) -> object:
        latest["batch"] = prepare(*args, **kwargs)
        return latest["batch"]

    def release() -> None:
        runner.prepare_inputs = prepare

    runner.prepare_inputs = watched
    return lambda: _second_runners_batch(latest["batch"]), release


def _first_runners_batch(runner: GPUModelRunner) -> _Batch:
    bounds, requests = runner.query_start_loc.np, runner.input_batch.req_ids
    return _cut(requests, bounds, runner.positions, runner.input_ids.gpu)


def _second_runners_batch(batch: Any) -> _Batch:
    return _cut(batch.req_ids, batch.query_start_loc_np, batch.positions, batch.input_ids)


def _cut(
    requests: Sequence[str], bounds: NDArray[np.int32], positions: Tensor, tokens: Tensor
) -> _Batch:
    """Copy a batch out of buffers, which are longer and are overwritten by the next batch."""
    bounds = bounds[: len(requests) + 1]
    rows = int(bounds[-1])
    return _Batch(tuple(requests), np.diff(bounds), positions[:rows].clone(), tokens[:rows].clone())


def assemble(
    recorded: dict[str, Any], answered: Sequence[tuple[str, Sequence[int], Sequence[int]]]
) -> list[RoutedSequence]:
    """Join the rows of a `Recorder` to requests.

    If a token was computed twice, because vLLM preempted its request, the last routing counts.

    Args:
        recorded: the result of `Recorder.finish`.
        answered: name for vLLM's caller, prompt and answer of each request.

    Raises:
        SteeringError: the routing of some tokens is missing, or is another token's.
    """
    rows = load(base64.b64decode(recorded["rows"]))
    places = _places(rows, len(recorded["requests"]))
    # Inside the engine vLLM appends random characters to a name.
    names = {name.rpartition("-")[0]: place for place, name in enumerate(recorded["requests"])}
    names |= {name: place for place, name in enumerate(recorded["requests"])}
    sequences = []
    for name, prompt, answer in answered:
        tokens = (*prompt, *answer)
        routed = len(tokens) - bool(answer)
        here = places[names[name]][:routed] if name in names else torch.empty(0, dtype=torch.long)
        seen = rows["position"][here] if name in names else here
        if not torch.equal(seen.long(), torch.arange(routed)):
            raise SteeringError(
                f"the routing of {len(here)} tokens of a request was seen, not of all {routed}"
            )
        if not torch.equal(rows["token"][here].long(), torch.tensor(tokens[:routed])):
            raise SteeringError("the routing that vLLM showed for a request is of other tokens")
        sequences.append(
            RoutedSequence(
                tokens=tokens,
                prompt_length=len(prompt),
                experts=rows["experts"][here].long(),
                weights=rows["weights"][here],
                spread=rows["spread"][here],
            )
        )
    return sequences


def _places(rows: Rows, requests: int) -> list[Tensor]:
    """Return the rows of each request in order of position; per position the last row."""
    if not rows:
        return []
    request, position = rows["request"].numpy(), rows["position"].numpy()
    order = np.lexsort((np.arange(len(request)), position, request))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = np.diff(request[order]).astype(bool) | np.diff(position[order]).astype(bool)
    order = order[last]
    bounds = np.searchsorted(request[order], np.arange(requests + 1))
    return [torch.from_numpy(order[bounds[i] : bounds[i + 1]]) for i in range(requests)]


def active_experts(routing: Sequence[Tensor]) -> int | None:
    """Count the different experts per token and layer; 0 if the number is not the same for all."""
    if not routing:
        return None
    counts = {len(set(chosen)) for tokens in routing for chosen in tokens.flatten(0, 1).tolist()}
    return counts.pop() if len(counts) == 1 else 0
