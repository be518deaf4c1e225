"""Runs batches in parallel on a CPU.

Most operations of a small model are too short to use two cores well, so two batches in parallel
with half of the threads each take less time than two batches in sequence with all threads.
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
"""The number of batches in parallel; more would need more memory."""
Module = TypeVar("Module", bound=nn.Module)


def copies(model: Module) -> list[Module]:
    """Return the model and, if batches may run in parallel, copies that share all its tensors.

    Hooks on one do not affect the others. A model on another device, or with modules whose
    `forward` was replaced (as accelerate does), is returned without copies.
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
    """Yield a `map` over `workers` threads, which divide the threads of torch among them."""
    if workers == 1:
        yield map
        return
    threads = torch.get_num_threads()
    each = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as it:
            yield it.map
    finally:
        torch.set_num_threads(threads)  # MKL has one setting for all threads
