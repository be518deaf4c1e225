"""Zero biases on the routers of an unsteered model, so that base and steered are one program.

On a GPU a product with a bias may be another kernel than one without, which rounds otherwise. So
there base runs with a bias of zeros, and steering only changes numbers. On a CPU both products give
the same bits (`tests/steering/test_zero_bias.py`), and nothing is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from . import router_patch
from .errors import SteeringError
from .routers import Router, find_routers
from .scoring import logits_dtype


def add_zero_biases(model: nn.Module, on: str = "cuda") -> list[Router]:
    """Add a zero bias to each router that computes on a device of this type and has none yet.

    A model that cannot be steered is not changed.

    Returns:
        The routers that got one.
    """
    added: list[Router] = []
    try:
        for router in find_routers(model):
            bare = not (router_patch.has_base(router.module) or router.native_only)
            if router.device.type == on and bare and router_patch.can_shift(router):
                zeros = torch.zeros(
                    router.experts, dtype=logits_dtype(router), device=router.device
                )
                router_patch.attach_base(router, router_patch.Edit(shift=zeros))
                added.append(router)
    except BaseException as error:
        remove_zero_biases(added)
        if isinstance(error, SteeringError):
            return []
        raise
    return added


def remove_zero_biases(routers: list[Router]) -> None:
    """Remove the zero biases of these routers."""
    for router in routers:
        router_patch.detach_base(router.module)


@contextmanager
def zero_biases(model: nn.Module, on: str = "cuda") -> Iterator[None]:
    """Run `model` with zero biases inside the context, as `add_zero_biases` adds them."""
    added = add_zero_biases(model, on)
    try:
        yield
    finally:
        remove_zero_biases(added)
