"""The counting of a pass, batch by batch, into arrays on disk: only one batch is resident."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .observations import Observations
from .rows import Batch


def write_counts(seen: Observations, folder: Path, quantile: float, markers: Sequence[int]) -> None:
    """Count the rows of a pass, and write an array on disk for each column of `RoutingCounts`.

    Args:
        seen: a finished pass.
        folder: where the arrays are written.
        quantile: the quantile of saliency above which a token is salient.
        markers: ids of the tokens that are counted separately.
    """
    rows, cell = 2 * len(set(seen.group)), (len(seen.layers), seen.experts)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "tokens": ((rows, 2), np.int64),
        "used": ((rows, 2, *cell), np.int32),
        "gate": ((rows, *cell), np.float32),
        "marker_tokens": ((rows, len(markers)), np.int64),
        "marked": ((rows, len(markers), *cell), np.int32),
    }
    if seen.has_contributions:
        shapes["contribution"] = ((rows, *cell), np.float32)
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


def _thresholds(seen: Observations, quantile: float) -> NDArray[np.float64]:
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
    seen: Observations, batch: Batch, thresholds: NDArray[np.float64], markers: Sequence[int]
) -> dict[str, tuple[NDArray[np.int64], NDArray[Any]]]:
    """Count one batch; return (rows of its documents, their values) for each column."""
    generated = batch.generated.numpy().astype(np.int64)
    row = 2 * np.array(seen.group)[batch.document.numpy()] + generated
    rows, local = np.unique(row, return_inverse=True)
    limit = thresholds[np.array(seen.domain)[batch.document.numpy()], generated]
    salient = np.zeros(len(row), dtype=np.int64)
    if batch.saliency is not None:
        salient = (batch.saliency.numpy() > limit).astype(np.int64)
    layers, experts = len(seen.layers), seen.experts
    cell = np.arange(layers)[:, None] * experts + batch.experts.numpy()  # [tokens, layers, k]

    def table(group: NDArray[np.int64], cells: Any, *shape: int, by: Tensor | None = None) -> Any:
        """Sum 1, or the values `by`, over tokens per (group, layer, expert)."""
        flat = (group[:, None, None] * (layers * experts) + cells).ravel()
        values = None if by is None else by.float().numpy().ravel()
        shape = (*shape, layers, experts)
        return np.bincount(flat, values, math.prod(shape)).reshape(shape)

    count = len(rows)
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
    if batch.contributions is not None:
        columns["contribution"] = table(local, cell, count, by=batch.contributions)
    columns |= _optional_columns(batch, local, count, experts)
    return {name: (rows, values) for name, values in columns.items()}


def _optional_columns(
    batch: Batch, local: NDArray[np.int64], count: int, units: int
) -> dict[str, NDArray[Any]]:
    """Sum the spread of logits and the activity of neurons by document, where they are recorded."""
    columns: dict[str, NDArray[Any]] = {}
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
