"""Adds a vector to the residual stream: strength times the vector, after a decoder layer.

The decoder layers are the list of modules that the routers' names show, such as `model.layers`; a
layer need not have experts. The vector is added to each token's hidden state, as in EasySteer and
vllm-lens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import ProbeError, SteeringError
from .profile import Profile

See = Callable[[int, Tensor], None]


class Located(Protocol):
    """A module of a decoder layer: a router, or the down projection of a dense FFN."""

    @property
    def name(self) -> str:
        """The name of the module in the model."""

    @property
    def layer(self) -> int:
        """The index of the layer."""


def decoder_layers(model: nn.Module, inside: Sequence[Located]) -> nn.ModuleList:
    """Return the decoder layers of a model, found by the names of its routers or FFNs.

    Raises:
        SteeringError: they are not all in one list of layers.
    """
    return layers_of(model, [(one.name, one.layer) for one in inside])


def layers_of(model: nn.Module, inside: Sequence[tuple[str, int]]) -> nn.ModuleList:
    """Return the list of layers that contains modules, each given by name and layer index.

    Raises:
        SteeringError: there is no such list, or there are several.
    """
    lists = {f".{name}.".partition(f".{layer}.")[0] for name, layer in inside}
    if len(lists) == 1:
        found = model.get_submodule(lists.pop().strip("."))
        if isinstance(found, nn.ModuleList):
            return found
    raise SteeringError(
        f"{type(model).__name__}: its routers or FFNs are not in one list of decoder layers, so "
        "that this version cannot steer its residual stream"
    )


def hidden_size(model: nn.Module) -> int:
    """Return the width of a model's hidden states."""
    config: Any = model.config
    return int(config.get_text_config().hidden_size)


def check_vectors(profile: Profile, layers: int, width: int) -> None:
    """Check that a model has the layers of a profile's vectors, and hidden states of their width.

    Raises:
        SteeringError: it has not.
    """
    far = [layer for layer in profile.vectors if layer >= layers]
    if far:
        raise SteeringError(
            f"profile {profile.id} steers layer {max(far)}; this model has layers 0 to {layers - 1}"
        )
    for layer, vector in profile.vectors.items():
        if len(vector) != width:
            raise SteeringError(
                f"profile {profile.id}: the vector of layer {layer} has {len(vector)} numbers; the "
                f"hidden states of this model have {width}"
            )


def shifts(profile: Profile) -> dict[int, Tensor]:
    """Return what is added after each layer, [hidden] in float32: strength times the vector.

    Zero is minus zero, which changes no bit of what it is added to.

    Raises:
        SteeringError: a product is too large for float32.
    """
    strength, added = profile.intervention.strength, {}
    for layer, vector in profile.vectors.items():
        shift = strength * torch.tensor(vector, dtype=torch.float32)
        if not bool(shift.isfinite().all()):
            raise SteeringError(
                f"profile {profile.id}: strength {strength:g} times the vector of layer {layer} "
                "is too large for float32"
            )
        added[layer] = torch.where(shift == 0, -0.0, shift)
    return added


def add_after(layers: nn.ModuleList, added: Mapping[int, Tensor]) -> ExitStack:
    """Add a vector to the output of each of some layers; closing the result stops it."""
    with ExitStack() as stack:
        for layer, shift in added.items():
            stack.callback(layers[layer].register_forward_hook(_adder(shift)).remove)
        return stack.pop_all()


def _adder(shift: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
    def add(module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = first_of(module, output)
        moved = hidden + shift.to(hidden)
        return moved if isinstance(output, Tensor) else type(output)((moved, *output[1:]))

    return add


def first_of(module: nn.Module, output: Any) -> Tensor:
    """Return the hidden states of a layer's output: the tensor, or the first of a tuple.

    Raises:
        SteeringError: the output is of another kind.
    """
    hidden = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(hidden, Tensor):
        raise SteeringError(
            f"{type(module).__name__} returns no hidden states, so that this version cannot steer "
            "the residual stream after it"
        )
    return hidden


@contextmanager
def watched(layers: nn.ModuleList, which: Sequence[int], see: See) -> Iterator[None]:
    """Call `see` with the index of a layer and its hidden states, [texts, length, hidden].

    Inside a steering, the states are the steered ones.
    """

    def watcher(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, _args, output: see(layer, first_of(module, output).detach())

    with ExitStack() as stack:
        for layer in which:
            stack.callback(layers[layer].register_forward_hook(watcher(layer)).remove)
        yield


@contextmanager
def recorded(layers: nn.ModuleList, which: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Record the hidden states after some layers inside the context; the last pass is kept."""
    states: dict[int, Tensor] = {}
    with watched(layers, which, lambda layer, hidden: states.update({layer: hidden.clone()})):
        yield states


def check_moved(profile: Profile, layer: int, base: Tensor, steered: Tensor, mask: Tensor) -> None:
    """Check that hidden states moved by strength times the vector, up to rounding.

    Args:
        profile: the profile, of kind `residual`.
        layer: its first layer, before which nothing differs from base.
        base: the hidden states after that layer, [texts, length, hidden].
        steered: likewise, steered.
        mask: [texts, length], 1 on tokens.

    Raises:
        ProbeError: they did not.
    """
    kept = mask.bool().to(base.device)
    before, after = base[kept].double(), steered[kept].double()
    shift = shifts(profile)[layer].double().to(before.device)
    step = 2 * torch.finfo(base.dtype).eps
    if not bool(((after - before - shift).abs() <= step * (before.abs() + shift.abs())).all()):
        raise ProbeError(
            f"residual: after layer {layer} the hidden states did not move by strength times the "
            "vector, which is its definition"
        )
