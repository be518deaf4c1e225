"""The neurons of dense FFNs: a mixture whose experts are single neurons, all of which run.

FFN(x) = sum_j a_j(x) d_j, with a_j the input of the down projection and d_j its column j. The size
of a neuron on a token is |a_j| times the length of d_j; of a block of neighbouring neurons, their
sum. The largest sizes of a token are its selection, as the router's choice is that of experts.

An FFN is found by its structure: the down projection is the only linear layer of a decoder layer,
outside of its attention, that maps another width to that of the hidden states.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .capture import Routing
from .errors import NoRouterError, SteeringError
from .profile import ChosenExpert, Intervention
from .residual import hidden_size
from .routers import IN_ATTENTION, device_of, find_routers, in_memory

SELECTED_SHARE = 1 / 16
"""The share of a layer's neurons that a token selects: fixed, the same for all models."""
SAMPLED = 8
"""Outputs of each down projection whose weights identify a model: all are 37 GB at 70B."""
_ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")
Watch = Callable[[Tensor], None]


@dataclass(frozen=True, slots=True)
class NeuronSite:
    """The neurons of one FFN, under the names that a `Router` has for experts.

    Attributes:
        layer: index of the layer in the model.
        name: name of the down projection in the model.
        module: the down projection, whose inputs are the neurons.
        width: number of neurons.
        block: number of neighbouring neurons that are one unit.
        readers: the linear layers that read the hidden states: gate and up, or one.
        activation: the module of the activation function, or None if the FFN calls none.
    """

    layer: int
    name: str
    module: nn.Module
    width: int
    block: int
    readers: tuple[nn.Module, ...]
    activation: nn.Module | None

    @property
    def experts(self) -> int:
        """The number of units."""
        return self.width // self.block

    @property
    def top_k(self) -> int:
        """The number of units that a token selects."""
        return selected_count(self.experts)

    @property
    def weight(self) -> Tensor:
        """The weight of the down projection, as the module has it."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)  # noqa: S101 - found by its shape
        return weight

    @property
    def device(self) -> torch.device:
        """The device on which the down projection computes."""
        return device_of(self.module, self.weight)

    def loaded(self) -> AbstractContextManager[None]:
        """Return a context with the weights in memory, even where accelerate offloaded them."""
        return in_memory(self.module)

    def columns(self) -> Tensor:
        """Return a view of the down projection with a row per neuron, [neurons, hidden]."""
        weight = self.weight
        return weight.T if isinstance(self.module, nn.Linear) else weight

    def sample(self) -> Tensor:
        """Return the weights of a few of the down projection's outputs, [outputs, neurons]."""
        return self.columns()[:, :SAMPLED].T

    def lengths(self) -> Tensor:
        """Return the length of each neuron's column, [neurons] in float32."""
        with self.loaded():
            lengths: Tensor = torch.linalg.vector_norm(self.columns().detach().float(), dim=1)
            return lengths.to(self.device)

    def sizes(self, neurons: Tensor, lengths: Tensor) -> Tensor:
        """Compute the sizes of all units, [tokens, units] in float32.

        Args:
            neurons: the down projection's input, [..., neurons].
            lengths: as `lengths` returns them.
        """
        return unit_sizes(neurons, lengths, self.block)


def selected_count(units: int) -> int:
    """Return the number of units of a layer that a token selects."""
    return max(1, round(SELECTED_SHARE * units))


def unit_sizes(neurons: Tensor, lengths: Tensor, block: int) -> Tensor:
    """Compute the sizes of units, [tokens, units] in float32.

    Args:
        neurons: the down projection's input, [..., neurons].
        lengths: the length of each neuron's column, [neurons].
        block: the number of neighbouring neurons that are one unit.
    """
    size = neurons.detach().flatten(0, -2).float().abs() * lengths
    return size.reshape(len(size), -1, block).sum(-1)


def find_neurons(model: nn.Module, block: int = 1) -> tuple[NeuronSite, ...]:
    """Return the FFNs of a dense model, in layer order.

    Args:
        model: a causal language model of transformers.
        block: the number of neighbouring neurons that are one unit.

    Raises:
        SteeringError: the model has experts, or FFNs that this version cannot read.
    """
    _check_dense(model)
    hidden, by_layer = hidden_size(model), defaultdict(list)
    for name, module in model.named_modules():
        layer, shape = re.search(r"\.(\d+)\.", f".{name}."), _shape(module)
        if layer is None or shape is None or IN_ATTENTION.search(name):
            continue
        if shape[1] == hidden and shape[0] != hidden:
            by_layer[int(layer.group(1))].append((name, module, shape[0]))
    if not by_layer or any(len(found) > 1 for found in by_layer.values()):
        raise SteeringError(
            f"{type(model).__name__} does not have exactly one linear layer from neurons to hidden "
            "states in each decoder layer; this version cannot read its neurons"
        )
    sites = [
        _describe(model, layer, *found[0], block, hidden)
        for layer, found in sorted(by_layer.items())
    ]
    widths = sorted({site.width for site in sites})
    if len(widths) > 1 or widths[0] % block or widths[0] < 2 * block:
        raise SteeringError(
            f"{type(model).__name__} has FFNs of {' or '.join(map(str, widths))} neurons, which "
            f"cannot all be parted into the same number of blocks of {block}; give a divisor"
        )
    return tuple(sites)


def _check_dense(model: nn.Module) -> None:
    try:
        find_routers(model)
    except NoRouterError:
        return
    raise SteeringError(
        f"{type(model).__name__} has experts; neurons are for dense models, so leave `sites` out"
    )


def _describe(
    model: nn.Module,
    layer: int,
    name: str,
    module: nn.Module,
    width: int,
    block: int,
    hidden: int,
) -> NeuronSite:
    children = list(model.get_submodule(name.rpartition(".")[0]).children())
    shapes = [(child, _shape(child)) for child in children]
    readers = tuple(
        child
        for child, shape in shapes
        if shape is not None and shape[0] == hidden and shape[1] % width == 0
    )
    functions = [one for one in children if type(one).__module__.startswith(_ACTIVATIONS)]
    activation = functions[0] if len(functions) == 1 else None
    return NeuronSite(layer, name, module, width, block, readers, activation)


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear layer, or None if the module is no such layer."""
    from transformers.pytorch_utils import Conv1D

    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear | Conv1D) or weight is None or weight.ndim != 2:
        return None
    rows, columns = weight.shape
    return (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)


@contextmanager
def capture_neurons(sites: Sequence[NeuronSite]) -> Iterator[Routing]:
    """Record the largest units of each token and their sizes, as `capture_routing` does."""
    routing = Routing(tuple(site.layer for site in sites))

    def record(site: NeuronSite, sizes: Tensor) -> None:
        best = sizes.topk(site.top_k)
        routing.record(site.layer, best.indices, best.values)

    with _watched_sizes(sites, record):
        yield routing


@contextmanager
def capture_sizes(sites: Sequence[NeuronSite]) -> Iterator[Callable[[], Tensor]]:
    """Record the sizes of all units of the last forward pass.

    Yields:
        A function that returns them, [tokens, layers, units].
    """
    seen: dict[int, Tensor] = {}
    with _watched_sizes(sites, lambda site, sizes: seen.update({site.layer: sizes})):
        yield lambda: torch.stack([seen[site.layer] for site in sites], dim=1)


@contextmanager
def capture_activity(sites: Sequence[NeuronSite]) -> Iterator[Callable[[], Tensor]]:
    """Record which neurons are active: those whose activation function gives more than zero.

    Yields:
        A function that returns the last forward pass's, [tokens, layers, neurons] bool.

    Raises:
        SteeringError: an FFN calls no activation module, or units are blocks.
    """
    blind = [site.layer for site in sites if site.activation is None]
    if blind or sites[0].block > 1:
        raise SteeringError(
            "activity is that of single neurons; leave `block` out"
            if not blind
            else f"layer {blind[0]}: its FFN calls no module of an activation function, so that "
            "which neurons are active cannot be read; use a method other than lape"
        )
    seen: dict[int, Tensor] = {}

    def hook(site: NeuronSite) -> Callable[..., None]:
        def see(_module: nn.Module, _given: object, output: Tensor) -> None:
            seen[site.layer] = output.detach().flatten(0, -2) > 0

        return see

    handles = [
        site.activation.register_forward_hook(hook(site)) for site in sites if site.activation
    ]
    try:
        yield lambda: torch.stack([seen[site.layer] for site in sites], dim=1)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _watched_sizes(
    sites: Sequence[NeuronSite], see: Callable[[NeuronSite, Tensor], None]
) -> Iterator[None]:
    def hook(site: NeuronSite, lengths: Tensor) -> Callable[..., None]:
        return lambda _module, given: see(site, site.sizes(given[0], lengths))

    with ExitStack() as stack:
        for site in sites:
            handle = site.module.register_forward_pre_hook(hook(site, site.lengths()))
            stack.callback(handle.remove)
        yield


@contextmanager
def scaled(site: NeuronSite, factor: Tensor) -> Iterator[None]:
    """Run the context with the neurons of an FFN multiplied by `factor`, [neurons]."""
    by_dtype: dict[torch.dtype, Tensor] = {}

    def hook(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        neurons = given[0]
        if neurons.dtype not in by_dtype:
            by_dtype[neurons.dtype] = factor.to(neurons.device, neurons.dtype)
        return (neurons * by_dtype[neurons.dtype], *given[1:])

    # First of all hooks, so that what is captured there is what the down projection receives.
    handle = site.module.register_forward_pre_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def neuron_factor(
    intervention: Intervention, chosen: Sequence[ChosenExpert], site: NeuronSite
) -> Tensor:
    """Return the factor of each neuron of an FFN, [neurons] in float32; see `unit_factor`."""
    return unit_factor(intervention, chosen, site.experts).repeat_interleave(site.block)


def unit_factor(intervention: Intervention, chosen: Sequence[ChosenExpert], units: int) -> Tensor:
    """Return the factor of each of a layer's units, [units] in float32.

    `reweight` (Eq. 11) and `amplify` multiply a_j by 1 + strength: a dense FFN has no sum of
    weights that Eq. 11 could restore. `mask` multiplies by zero.

    Raises:
        SteeringError: the intervention is one of a router's logits, which a dense FFN lacks.
    """
    kind, strength = intervention.kind, intervention.strength
    if kind not in ("reweight", "amplify", "mask"):
        raise SteeringError(
            f"{kind} edits the logits of a router, and a dense FFN has none; use reweight, amplify "
            "or mask for neurons"
        )
    factor = torch.ones(units, dtype=torch.float32)
    factor[[one.expert for one in chosen]] = 1 + strength if kind != "mask" else 1.0 - strength
    return factor
