"""What an arm adds to a model's forward: operations on a CPU, kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {"t", "view", "_unsafe_view", "detach", "alias"}  # they compute nothing


class Counted(TorchDispatchMode):
    """Counts the operations that reach the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.number += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], None]) -> int:
    """Count the operations of `work` on a CPU."""
    with Counted() as counted:
        work()
    return counted.number


def kernels(work: Callable[[], None]) -> int:
    """Count the kernels that `work` starts on a GPU; it runs twice."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    work()  # what is compiled or tuned at the first call
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    events = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in events)


def added_per_layer(
    work: Callable[[], None],
    arms: Mapping[str, Callable[[], AbstractContextManager[object]]],
    layers: int,
    device: str,
) -> dict[str, float]:
    """What each arm adds to `work`, a layer; empty where the GPU's profiler sees no kernel."""
    count = kernels if device == "cuda" else operations
    work()
    base = count(work)
    added = {}
    for name, put_on in arms.items():
        with put_on():
            added[name] = (count(work) - base) / layers
    return added if base else {}
