"""The bytes of live tensors that a piece of work needs, counted operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make until they are freed.

    What was in memory before, such as weights, does not count, nor does what an operation needs
    inside itself.

    Attributes:
        live: the bytes that are live now.
        peak: the most that were live at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note the storages of its outputs that none of its inputs has."""
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, torch.Tensor):
                self._note(given, 0)
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live)
        return made

    def _note(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def freed(_: object) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, freed)
        self.live += size


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that the work's tensors took at once."""
    with LiveBytes() as count:
        work()
    return count.peak
