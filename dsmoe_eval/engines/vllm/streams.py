"""Sums of the residual stream in vLLM's workers, for the mean streams of domains.

One document is computed at a time, so that every row of a forward pass is of that document; its
position says which token it is. A layer returns the stream as one tensor, or in two parts, since
vLLM adds them in the next layer's norm.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ...steering.errors import SteeringError
from ...steering.residual import first_of
from .routing import watch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class StreamSums:
    """Sums over the tokens of documents, by domain and decoder layer, in float64.

    Args:
        runner: vLLM's model runner, which has the positions of a pass.
        layers: the decoder layers.
        shape: number of domains, and width of the hidden states.
    """

    def __init__(
        self, runner: GPUModelRunner, layers: nn.ModuleList, shape: tuple[int, int]
    ) -> None:
        domains, width = shape
        self._sums = torch.zeros(domains, len(layers), width, dtype=torch.float64)
        self._domain, self._kept, self._seen = 0, torch.zeros(0), torch.zeros(len(layers), 0)
        self._positions = torch.zeros(0, dtype=torch.long)
        self._hooks = ExitStack()
        self._next_batch, release = watch(runner)
        self._hooks.callback(release)
        for index, layer in enumerate(layers):
            self._hooks.callback(layer.register_forward_hook(self._adder(index)).remove)

    def begin(self, domain: int, kept: Sequence[bool]) -> None:
        """Start a document of a domain; of its tokens, those that are kept are added.

        Raises:
            SteeringError: not every token of the document before was seen once.
        """
        self._check_seen()
        self._domain, self._kept = domain, torch.tensor(kept)
        self._seen = torch.zeros(len(self._seen), len(kept))

    def finish(self) -> str:
        """Stop and return the sums, [domains, layers, hidden], for `read_sums`.

        Raises:
            SteeringError: as in `begin`.
        """
        self._hooks.close()
        self._check_seen()
        return base64.b64encode(save({"sums": self._sums})).decode()

    def _check_seen(self) -> None:
        if not bool((self._seen == 1).all()):
            raise SteeringError(
                "vLLM did not show the residual stream of each token once in each layer; take the "
                "transformers engine for the arm residual"
            )

    def _adder(self, layer: int) -> Any:
        def add(module: nn.Module, _args: Any, output: Any) -> None:
            stream = first_of(module, output)
            rest = output[1] if isinstance(output, tuple | list) and len(output) > 1 else None
            if isinstance(rest, Tensor) and rest.shape == stream.shape:
                stream = stream + rest
            if layer == 0:
                self._positions = self._next_batch().positions.cpu()
            inside = self._positions < len(self._kept)  # not what follows the document
            at = self._positions[inside]
            rows = stream.cpu()[: len(self._positions)][inside]
            self._seen[layer].index_add_(0, at, torch.ones(len(at)))
            self._sums[self._domain, layer] += rows[self._kept[at]].double().sum(0)

        return add


def read_sums(sums: str) -> Tensor:
    """Return the sums from the text of `StreamSums.finish`."""
    read: Tensor = load(base64.b64decode(sums))["sums"]
    return read
