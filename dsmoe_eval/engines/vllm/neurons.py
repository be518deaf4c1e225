"""vLLM's down projection with a factor for each neuron in front of it.

A dense FFN ends in a `RowParallelLinear`, whose inputs are its neurons. Importing this module
replaces that class, by vLLM's registry, for models built afterwards in this process. In a model
without experts, the layer that ends an FFN multiplies its input by a buffer. As in `layer`, the
buffer is there from the start and is rewritten in place; it has one row per profile, each token
takes the row of its request (see `table`), and row 0 is all ones, which change no bit. With tensor
parallelism each worker has the factors of its part of the neurons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod

from ...steering.errors import SteeringError
from ...steering.interventions import LayerEffect
from ...steering.neurons import SAMPLED
from ...steering.routers import IN_ATTENTION
from .table import current_config, mark_as_steerable, token_rows

_AT_ONCE = 512
"""Columns of a packed weight that are read at once."""
_WAY_OUT = "take engine: transformers, or bake the profile and serve the new checkpoint"


def scale_neurons(neurons: Tensor, rows: Tensor, factor: Tensor) -> Tensor:
    """Return neurons times the factors of their tokens' rows; ones change no bit.

    Args:
        neurons: [..., tokens, neurons].
        rows: [tokens of a step at most], int64, the row of each token.
        factor: [profiles, neurons], in the dtype of `neurons`.
    """
    return neurons * factor[rows[: neurons.shape[-2]]]


@RowParallelLinear.register_oot
class SteerableRowParallelLinear(RowParallelLinear):  # type: ignore[misc]
    """A linear layer of vLLM; if it ends a dense FFN, with steering added."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.dsmoe_note: Callable[[Tensor], None] | None = None
        """A function that gets the neurons as multiplied, of every call that is not compiled."""
        config = current_config().model_config
        neutral: dict[str, Tensor | None] = {"factor": None, "rows": None, "calls": None}
        if (
            not config.is_moe
            and _ends_ffn(self.prefix, self, config.get_hidden_size())
            and _fault(self) is None
        ):
            shape = 1 + mark_as_steerable(), self.input_size_per_partition
            neutral = {
                "factor": torch.ones(shape, dtype=self.params_dtype),
                "rows": token_rows(),
                "calls": torch.zeros((), dtype=torch.int64),
            }
        for name, value in neutral.items():
            self.register_buffer(f"dsmoe_{name}", value, persistent=False)

    def forward(self, input_: Tensor) -> object:
        """Compute the layer on the neurons times the factors of their tokens."""
        if self.dsmoe_factor is not None:
            self.dsmoe_calls.add_(1)
            input_ = scale_neurons(input_, self.dsmoe_rows, self.dsmoe_factor)
            if self.dsmoe_note is not None:
                self.dsmoe_note(input_)
        return super().forward(input_)

    @property
    def capacity(self) -> int:
        """The number of profiles at once."""
        return len(self.dsmoe_factor) - 1

    @property
    def part(self) -> slice:
        """The neurons of the FFN that this worker has."""
        size = int(self.input_size_per_partition)
        return slice(self.tp_rank * size, (self.tp_rank + 1) * size)

    def steer(self, row: int, effect: LayerEffect) -> None:
        """Write the factors of `effect`, [neurons of the FFN], into a row."""
        if effect.weight_factor is not None:
            self.dsmoe_factor[row] = effect.weight_factor[self.part]

    def clear(self, row: int) -> None:
        """Make a row neutral."""
        self.dsmoe_factor[row] = 1

    def restore_correction(self) -> None:
        """Ignore the call: a dense FFN has no correction bias."""

    def read_columns(self) -> Iterator[Tensor]:
        """Yield the columns of this worker's neurons in order, [some neurons, hidden] at a time."""
        size = int(self.input_size_per_partition)
        for start in range(0, size, _AT_ONCE):
            end = min(size, start + _AT_ONCE)
            if self.weight.numel():
                yield self.weight.detach()[:, start:end].T
                continue
            # On CPUs vLLM packs the weight for its kernel and drops the original. Products with one
            # and with zeros are exact.
            picked = torch.zeros(end - start, size, dtype=self.params_dtype)
            picked[torch.arange(end - start), torch.arange(start, end)] = 1
            columns: Tensor = self.quant_method.apply(self, picked, None)
            yield columns

    def read_weight(self) -> tuple[Tensor, Tensor]:
        """Return sample and lengths of this worker's neurons, as `NeuronSite` does of all."""
        samples, lengths = [], []
        for columns in self.read_columns():
            samples.append(columns[:, :SAMPLED])
            lengths.append(torch.linalg.vector_norm(columns.float(), dim=1))
        return torch.cat(samples).T, torch.cat(lengths)


def find_down_projections(model: nn.Module, hidden: int) -> dict[int, SteerableRowParallelLinear]:
    """Return the layers that end the FFNs of a dense model, by layer index.

    Args:
        model: the model in a worker.
        hidden: the width of its hidden states.

    Raises:
        SteeringError: not every decoder layer has one that can be steered; the message names why.
    """
    found: dict[int, SteerableRowParallelLinear] = {}
    kind = type(model).__name__
    for name, module in model.named_modules():
        if not isinstance(module, RowParallelLinear) or not _ends_ffn(name, module, hidden):
            continue
        layer = int(re.findall(r"\.(\d+)\.", f".{name}.")[0])
        fault = _fault(module)
        if name.endswith(".base_layer"):
            fault = "is wrapped for adapters"
        if layer in found:
            fault = "has a second layer from neurons to hidden states"
        if fault is not None or getattr(module, "dsmoe_factor", None) is None:
            why = fault or f"is a {type(module).__name__} without an edit"
            raise SteeringError(
                f"layer {layer}: {name} {why}, so that vLLM cannot steer the neurons of this "
                f"{kind}; {_WAY_OUT}"
            )
        found[layer] = module
    if not found or len({module.input_size for module in found.values()}) > 1:
        raise SteeringError(
            f"vLLM computes {kind} with no RowParallelLinear of one width that ends the FFN of "
            f"each decoder layer, so that this version cannot steer its neurons; {_WAY_OUT}"
        )
    return dict(sorted(found.items()))


def _ends_ffn(name: str, layer: RowParallelLinear, hidden: int) -> bool:
    shape = layer.input_size != hidden and layer.output_size == hidden
    inside = re.search(r"\.\d+\.", f".{name}.") and not IN_ATTENTION.search(name)
    return bool(shape and inside)


def _fault(layer: RowParallelLinear) -> str | None:
    """Return why a layer cannot be steered; the words follow its name."""
    if type(layer.quant_method) is not UnquantizedLinearMethod:
        return f"is computed by {type(layer.quant_method).__name__}"
    if layer.tp_size > 1 and not layer.input_is_parallel:
        return "splits its input among the workers itself"
    return None
