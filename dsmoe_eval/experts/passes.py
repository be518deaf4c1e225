"""Batches of a pass on disk: an interrupted pass is resumed, a finished one is only read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

from torch import Tensor

from .tensor_files import save_tensors
from .workers import side_by_side

Advance = Callable[[int], None]
Compute = Callable[[Sequence[int]], dict[str, Tensor]]
"""A function that computes the tensors of a batch, given the indices of its texts."""


def pass_folder(root: Path, content: Sequence[object]) -> Path:
    """Make the folder of a pass, named by the hash of all its inputs."""
    folder = root / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def batch_path(folder: Path, index: int) -> Path:
    """Return the path of a batch."""
    return folder / f"batch-{index:06}.safetensors"


def write_batches(
    folder: Path, plan: Sequence[Sequence[int]], workers: Sequence[Compute], advance: Advance
) -> None:
    """Run the workers on the batches of a plan that do not exist yet, and write these.

    Args:
        folder: the folder of the pass.
        plan: the batches, each the indices of some texts.
        workers: compute a batch; each is used by one thread at a time.
        advance: called with the number of texts done.
    """
    free: SimpleQueue[Compute] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def keep(index: int) -> int:
        path, compute = batch_path(folder, index), free.get()
        try:
            if not path.is_file():
                save_tensors(path, compute(plan[index]))
        finally:
            free.put(compute)
        return len(plan[index])

    with side_by_side(len(workers)) as each:
        for done in each(keep, range(len(plan))):
            advance(done)
