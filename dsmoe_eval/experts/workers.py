"""Batches side by side on a CPU.

Most of a small model's operations are too short to be worth two cores, so two batches with half of
the threads each take less time than one after the other with all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

AT_ONCE = 2
"""Batches; more would hold more memory."""
Module = TypeVar("Module", bound=nn.Module)


def copies(model: Module) -> list[Module]:
    """The model and, where batches may run side by side, copies that share all of its tensors.

    Hooks and captures of one are not seen by the other. A model on another device, or whose
    modules' `forward` was replaced from outside (as accelerate does), stays alone.
    """
    tensors = [*model.parameters(), *model.buffers()]
    alone = any(tensor.device.type != "cpu" for tensor in tensors) or any(
        "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
        for module in model.modules()
    )
    if alone or torch.get_num_threads() < AT_ONCE:
        return [model]
    shared = {id(tensor): tensor for tensor in tensors}
    return [model, *(copy.deepcopy(model, dict(shared)) for _ in range(1, AT_ONCE))]


@contextmanager
def side_by_side(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Gives `map` over so many threads, which share out the threads of torch's own operations."""
    if workers == 1:
        yield map
        return
    threads = torch.get_num_threads()
    each = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as it:
            yield it.map
    finally:
        torch.set_num_threads(threads)  # MKL has one number for all threads
