"""Two passes over the same documents as one: the routing of one engine, the saliency of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from .observations import Observations
from .rows import Batch
from .tensor_files import save_tensors

Column = NDArray[np.int32] | NDArray[np.float32]


def with_saliency(routed: Observations, read: Observations) -> Observations:
    """Return a pass with the rows of `routed` and the saliency of `read`.

    Its files are written beside those of `routed`; existing ones are not written again.

    Args:
        routed: a pass without saliency.
        read: a pass with saliency over the same documents.

    Raises:
        ValueError: the passes have other tokens, or a file is not what was written.
    """
    known: dict[int, tuple[Column, Column]] = {}
    for batch in read.read():
        if batch.saliency is None:
            raise ValueError(f"{read.folder}: is a pass without saliency")
        starts = _starts(batch)
        documents = batch.document.numpy()[starts].tolist()
        columns = [np.split(one.numpy(), starts[1:]) for one in (batch.token, batch.saliency)]
        known |= zip(documents, zip(*columns, strict=True), strict=True)
    folder = routed.folder.with_name(f"{routed.folder.name}-{read.folder.name}")
    folder.mkdir(exist_ok=True)
    for index, batch in enumerate(routed.read()):
        mine = [known[one] for one in batch.document.numpy()[_starts(batch)].tolist()]
        if not np.array_equal(np.concatenate([tokens for tokens, _ in mine]), batch.token.numpy()):
            raise ValueError(f"{routed.folder} and {read.folder} are passes over other tokens")
        path = routed.file(index, folder)
        if not path.is_file():
            saliency = torch.from_numpy(np.concatenate([values for _, values in mine]))
            save_tensors(path, replace(batch, saliency=saliency).tensors())
    return replace(routed, folder=folder, has_saliency=True)


def _starts(batch: Batch) -> NDArray[np.int64]:
    """Return the first row of each document of a batch, whose rows are together."""
    return np.flatnonzero(np.diff(batch.document.numpy(), prepend=-1))
