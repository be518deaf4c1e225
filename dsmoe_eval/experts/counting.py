"""Counts the routing of a finished pass, batch by batch, into `RoutingCounts`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .counts import Floats, Marker, RoutingCounts
from .observations import Observations
from .rows import Batch

SALIENCY_QUANTILE = 0.15
"""The threshold of Eq. 8: the paper calls 0.15 to 0.5 effective, and its code uses 0.15."""


def count_routing(
    observations: Observations,
    quantile: float = SALIENCY_QUANTILE,
    markers: Sequence[Marker] = (),
) -> RoutingCounts:
    """Count the routing of a finished pass.

    A token is salient if its saliency is above the `quantile` of its domain and phase. The counts
    are stored in the folder of the pass and mapped into memory: only 4 bytes per token for the
    quantiles, and one batch, are resident.

    Args:
        observations: a finished pass.
        quantile: the quantile of saliency, which is the share of common tokens.
        markers: tokens to be counted separately.
    """
    name = hashlib.sha256(json.dumps([quantile, [m.token for m in markers]]).encode()).hexdigest()
    folder = observations.folder / f"counts-{name[:16]}"
    if not _is_whole(folder):
        folder.mkdir(exist_ok=True)
        _count(observations, folder, quantile, [marker.token for marker in markers])
        (folder / "done").write_text(json.dumps(_hashes(folder)))
    columns = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    domain = dict(zip(observations.group, observations.domain, strict=True))
    return RoutingCounts(
        domains=observations.domains,
        layers=observations.layers,
        top_k=observations.top_k,
        markers=tuple(markers),
        domain=np.repeat(np.array([domain[group] for group in range(len(domain))]), 2),
        generated=np.tile([False, True], len(domain)),
        weight=np.ones(2 * len(domain)),
        tokens=columns["tokens"], used=columns["used"], gate=columns["gate"],
        contribution=columns["contribution"] if observations.has_contributions else None,
        marker_tokens=columns["marker_tokens"], marked=columns["marked"],
        has_saliency=observations.has_saliency,
        spread=columns["spread"] if observations.has_spread else None,
        gated=columns["gated"] if observations.has_contributions else None,
        active=columns["active"] if observations.has_activity else None,
    )  # fmt: skip


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.glob("*.npy")):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _is_whole(folder: Path) -> bool:
    """Return whether counts were stored to their end, and are unchanged; else they are redone."""
    try:
        return bool(json.loads((folder / "done").read_text()) == _hashes(folder))
    except (OSError, ValueError):
        return False


def _count(seen: Observations, folder: Path, quantile: float, markers: Sequence[int]) -> None:
    rows, cell = 2 * len(set(seen.group)), (len(seen.layers), seen.experts)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "tokens": ((rows, 2), np.int64),
        "used": ((rows, 2, *cell), np.int32),
        "gate": ((rows, *cell), np.float32),
        "marker_tokens": ((rows, len(markers)), np.int64),
        "marked": ((rows, len(markers), *cell), np.int32),
    }
    if seen.has_contributions:
        shapes["contribution"] = shapes["gated"] = ((rows, *cell), np.float32)
    if seen.has_spread:
        shapes["spread"] = ((rows, cell[0]), np.float64)
    if seen.has_activity:
        shapes["active"] = ((rows, *cell), np.int32)
    whole = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (shape, dtype) in shapes.items()
    }
    thresholds = _thresholds(seen, quantile)
    for batch in seen.read():
        for name, (row, values) in _batch_counts(seen, batch, thresholds, markers).items():
            whole[name][row] += values  # chunks of a document may be in several batches
    for array in whole.values():
        array.flush()


def _thresholds(seen: Observations, quantile: float) -> Floats:
    """Compute the saliency thresholds, [domains, 2] by phase; NaN where there is no saliency."""
    thresholds = np.full((len(seen.domains), 2), np.nan)
    if not seen.has_saliency:
        return thresholds
    domain_of, columns = np.array(seen.domain), []
    for batch in seen.read():
        group = 2 * domain_of[batch.document.numpy()] + batch.generated.numpy()
        assert batch.saliency is not None  # noqa: S101 - what has_saliency says
        columns.append((group, batch.saliency.numpy()))
    group, saliency = (np.concatenate(column) for column in zip(*columns, strict=True))
    for index in np.unique(group):
        thresholds.flat[index] = np.quantile(saliency[group == index], quantile)
    return thresholds


def _batch_counts(
    seen: Observations, batch: Batch, thresholds: Floats, markers: Sequence[int]
) -> dict[str, tuple[NDArray[np.int64], NDArray[Any]]]:
    """Count one batch; return (rows of its documents, their values) for each column."""
    generated = batch.generated.numpy().astype(np.int64)
    row = 2 * np.array(seen.group)[batch.document.numpy()] + generated
    rows, local = np.unique(row, return_inverse=True)
    limit = thresholds[np.array(seen.domain)[batch.document.numpy()], generated]
    salient = np.zeros(len(row), dtype=np.int64)
    if batch.saliency is not None:
        salient = (batch.saliency.numpy() > limit).astype(np.int64)
    layers, experts, count = len(seen.layers), seen.experts, len(rows)
    cell = np.arange(layers)[:, None] * experts + batch.experts.numpy()  # [tokens, layers, k]

    def table(group: NDArray[np.int64], cells: Any, *shape: int, by: Tensor | None = None) -> Any:
        """Sum 1, or the values `by`, over tokens per (group, layer, expert)."""
        flat = (group[:, None, None] * (layers * experts) + cells).ravel()
        values = None if by is None else by.float().numpy().ravel()
        shape = (*shape, layers, experts)
        return np.bincount(flat, values, math.prod(shape)).reshape(shape)

    marked = np.zeros((count, len(markers), layers, experts), dtype=np.int64)
    marker_tokens = np.zeros((count, len(markers)), dtype=np.int64)
    for index, token in enumerate(markers):
        at = batch.token.numpy() == token
        marked[:, index] = table(local[at], cell[at], count)
        marker_tokens[:, index] = np.bincount(local[at], minlength=count)
    columns = {
        "tokens": np.bincount(2 * local + salient, minlength=2 * count).reshape(count, 2),
        "used": table(2 * local + salient, cell, count, 2),
        "gate": table(local, cell, count, by=batch.weights),
        "marker_tokens": marker_tokens,
        "marked": marked,
    }
    for name, values in (("contribution", batch.contributions), ("gated", batch.gated)):
        if values is not None:
            columns[name] = table(local, cell, count, by=values)
    columns |= _optional_columns(batch, local, count, experts)
    return {name: (rows, values) for name, values in columns.items()}


def _optional_columns(
    batch: Batch, local: NDArray[np.int64], count: int, units: int
) -> dict[str, NDArray[np.int64] | Floats]:
    """Sum the spread of logits and the activity of neurons by document, where they are recorded."""
    columns: dict[str, NDArray[np.int64] | Floats] = {}
    if batch.spread is not None:
        columns["spread"] = np.zeros((count, batch.spread.shape[1]))
        np.add.at(columns["spread"], local, batch.spread.numpy())
    if batch.active is not None:
        bits = [batch.active[local == one].numpy() for one in range(count)]
        columns["active"] = np.stack([_active(one, units) for one in bits])
    return columns


def _active(bits: NDArray[np.uint8], units: int) -> NDArray[np.int64]:
    """Count each unit's bits over the tokens of a document, [layers, units]."""
    layers = (np.unpackbits(bits[:, layer], axis=-1, count=units) for layer in range(bits.shape[1]))
    return np.stack([layer.sum(0, dtype=np.int64) for layer in layers])
