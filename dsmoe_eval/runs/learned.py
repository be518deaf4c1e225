"""What a learner found, kept in the run's folder, so that a run goes on without loading it.

A run whose learner also answers loads it anyway, and keeps its passes only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load, save

from ..experts import Marker, RoutingCounts, StreamMeans
from ..files import damage, writing
from .job import Job

_PLAIN = "plain"
"""The name of the fields that are no arrays, as JSON in bytes."""
Fields = dict[str, Any]
"""The fields of counts or means, by name."""
Found = TypeVar("Found", RoutingCounts, StreamMeans)


def kept_counts(job: Job, count: Callable[[], RoutingCounts]) -> RoutingCounts:
    """Return the counts of an earlier start on the run's folder, or count, and keep the result.

    Raises:
        UserError: the file is damaged, or the disk is full.
    """

    def read(content: Fields) -> RoutingCounts:
        markers = tuple(Marker(**one) for one in content.pop("markers"))
        return RoutingCounts(**content, markers=markers)

    return _kept(job, job.folder.counts, count, read)


def kept_means(job: Job, average: Callable[[], StreamMeans]) -> StreamMeans:
    """Return the mean streams of an earlier start, or average, and keep the result.

    Raises:
        UserError: the file is damaged, or the disk is full.
    """
    return _kept(job, job.folder.means, average, lambda content: StreamMeans(**content))


def _kept(
    job: Job, path: Path, find: Callable[[], Found], read: Callable[[Fields], Found]
) -> Found:
    if not job.roles.are_two:
        return find()
    if job.folder.has(path):
        with damage(path):
            return read(_parsed(job.folder.read(path)))
    found = find()
    with writing(path):
        job.folder.write(path, _packed(found))
    return found


def _packed(found: RoutingCounts | StreamMeans) -> bytes:
    """Return the fields as a safetensors file."""
    content = {one.name: getattr(found, one.name) for one in fields(found) if one.init}
    plain = {name: value for name, value in content.items() if not isinstance(value, np.ndarray)}
    if "markers" in plain:
        plain["markers"] = [asdict(one) for one in plain["markers"]]
    arrays = {name: content[name] for name in content.keys() - plain.keys()}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}
    words = bytearray(json.dumps(plain).encode())
    packed: bytes = save(tensors | {_PLAIN: torch.frombuffer(words, dtype=torch.uint8)})
    return packed


def _parsed(content: bytes) -> Fields:
    """Return the fields of what `_packed` gave."""
    tensors = load(content)
    plain = json.loads(bytes(tensors.pop(_PLAIN).numpy()))
    lists = {name: tuple(one) if isinstance(one, list) else one for name, one in plain.items()}
    return {name: one.numpy() for name, one in tensors.items()} | lists
