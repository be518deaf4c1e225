"""The forms in which routers give their choice: read as weights and indices, written back.

- Pair: weights and indices, both [tokens, k], which the experts receive.
- Table (Llama 4): the scores of all experts, [tokens, experts], 0 where not selected. The block
  multiplies the experts' input by them; the experts receive nothing else.
- Sorted (JetMoE): one weight per (token, expert) in the order of the experts, with the sizes of the
  experts' parts. The experts receive the tokens in that order and the sizes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ProbeError, SteeringError
from .routers import Router


class Choice(NamedTuple):
    """A router's choice: `weights` and `indices`, both [tokens, k]."""

    weights: Tensor
    indices: Tensor


class _Sorted(NamedTuple):
    """Positions in the output: entries in the order of the experts, their tokens, their weights."""

    entries: int
    tokens: int
    weights: int
    sizes: int


def routing_of(router: Router, output: Any) -> tuple[int, int]:
    """Return the positions of the weights and the indices, both [tokens, k], in a router's output.

    Raises:
        SteeringError: there is not exactly one integer tensor with one float tensor of its shape.
    """
    tensors = _tensors(output)
    indices = [at for at, value in tensors.items() if not value.dtype.is_floating_point]
    shape = output[indices[0]].shape if len(indices) == 1 else None
    weights = [
        at for at, value in tensors.items() if value.is_floating_point() and value.shape == shape
    ]
    if len(weights) > 1:  # a token gets every expert, so that the logits have this shape, too
        weights = [at for at in weights if at != router.logits_at]
    if len(weights) != 1:
        raise SteeringError(
            f"{router.name}: this router does not return the selected experts and their weights; "
            "this version cannot steer it"
        )
    return weights[0], indices[0]


def read(router: Router, output: Any) -> Choice:
    """Read a router's output of any form.

    Raises:
        SteeringError: the output has no known form.
    """
    if (table := _table_at(router, output)) is not None:
        return Choice(*output[table].topk(router.top_k, dim=-1))
    if (at := _sorted_at(output)) is not None:
        order = output[at.entries]
        experts = torch.tensor(output[at.sizes], device=order.device)
        experts = torch.arange(router.experts, device=order.device).repeat_interleave(experts)
        weights, indices = torch.empty_like(output[at.weights]), torch.empty_like(order)
        weights[order], indices[order] = output[at.weights], experts
        return Choice(weights.view(-1, router.top_k), indices.view(-1, router.top_k))
    weights_at, indices_at = routing_of(router, output)
    return Choice(output[weights_at], output[indices_at])


def write(router: Router, output: Any, edit: Any) -> tuple[Any, ...]:
    """Return a router's output with weights that `edit` makes of (weights, indices), [tokens, k].

    Raises:
        SteeringError: the output has no known form.
    """
    if (table := _table_at(router, output)) is not None:
        scores = output[table]
        every = torch.arange(router.experts, device=scores.device).expand_as(scores)
        return _replaced(output, table, edit(scores, every))
    if (at := _sorted_at(output)) is not None:
        weights = edit(*read(router, output))
        return _replaced(output, at.weights, weights.flatten()[output[at.entries]])
    weights_at, indices_at = routing_of(router, output)
    return _replaced(output, weights_at, edit(output[weights_at], output[indices_at]))


def received(router: Router, hidden: Tensor, output: Any, args: tuple[Any, ...]) -> Choice | None:
    """Read the choice that experts obey which do not receive it, from what they do receive.

    Args:
        router: the router.
        hidden: the router's input.
        output: its output.
        args: the arguments of the experts' call.

    Returns:
        The choice, or None if experts of this form receive it themselves.

    Raises:
        ProbeError: the experts received something else than the router's output says.
    """
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if (table := _table_at(router, output)) is not None:
        expected = [(hidden * output[table].T.unsqueeze(-1)).flatten(0, 1)]
    elif (at := _sorted_at(output)) is not None:
        expected = [hidden[output[at.tokens]], torch.tensor(output[at.sizes])]
    else:
        return None
    given = [one if isinstance(one, Tensor) else torch.tensor(one) for one in args]
    if not all(map(torch.equal, given, expected)) or len(given) != len(expected):
        raise ProbeError(
            f"layer {router.layer}: the experts did not receive the tokens that {router.name!r} "
            "gave to them, so steering that router has no effect"
        )
    return read(router, output)


def _tensors(output: Any) -> dict[int, Tensor]:
    values = enumerate(output) if isinstance(output, tuple | list) else ()
    return {at: value for at, value in values if isinstance(value, Tensor)}


def _table_at(router: Router, output: Any) -> int | None:
    """Return the position of a table of scores: two float tensors over experts, nothing else."""
    tensors = _tensors(output)
    shapes = {value.shape for value in tensors.values()}
    if len(tensors) != 2 or len(shapes) != 1 or router.logits_at not in tensors:
        return None
    if not all(value.is_floating_point() for value in tensors.values()):
        return None
    return next(at for at in tensors if at != router.logits_at)


def _sorted_at(output: Any) -> _Sorted | None:
    """Return the positions of sorted entries: two vectors of integers, one of weights, a list."""
    tensors = _tensors(output)
    flat = {at: value for at, value in tensors.items() if value.ndim == 1}
    whole = [at for at, value in flat.items() if not value.is_floating_point()]
    weights = [at for at in flat if at not in whole]
    sizes = [at for at, value in enumerate(output) if isinstance(value, list)] if flat else []
    if (len(whole), len(weights), len(sizes)) != (2, 1, 1):
        return None
    return _Sorted(*whole, *weights, *sizes)


def _replaced(output: Any, at: int, value: Tensor) -> tuple[Any, ...]:
    return (*output[:at], value, *output[at + 1 :])
