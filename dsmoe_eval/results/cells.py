"""Cells on disk: one variant on one task, its identity and one row per item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from .acted import Evidence
from .folder import RunFolder

GENERATED = {
    "texts": "text",
    "scores": "score",
    "tokens": "tokens",
    "truncated": "truncated",
    "invalid": "invalid",
}
"""Columns with one value per generated answer of an item -> field of `ScoredAnswer`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that can change a cell's answers; its hash names the cell."""

    model: str
    fingerprint: str
    variant: str
    target: str | None
    profile: str | None
    adapter: str | None
    dtype: str
    device: str
    experts_implementation: str
    engine: str
    engine_settings: tuple[tuple[str, int | bool | str], ...]
    versions: tuple[tuple[str, str], ...]
    batch_tokens: int
    prompt_format: str
    decoding: str
    ends: tuple[str | int, ...]
    task: str
    task_version: str
    few_shot: int
    answer_tokens: int | None
    filter: str | None
    metric: str
    split: str
    items: str
    seed: int

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 over all fields."""
        return identity_id(asdict(self))


def identity_id(fields: Mapping[str, object]) -> str:
    """Return the id of the cell whose identity has these fields: `Identity.id`, in `cell.json`."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def answer_rates(rows: pd.DataFrame, suffix: str = "") -> dict[str, float] | None:
    """Return the mean tokens of generated answers and the shares truncated and invalid.

    Args:
        rows: rows of cells.
        suffix: the suffix of the columns, where rows hold two variants.

    Returns:
        Name -> value; None where no answer was generated.
    """
    generated = rows[rows[f"tokens{suffix}"].str.len() > 0]
    if generated.empty:
        return None
    names = {"mean_tokens": "tokens", "truncated": "truncated", "invalid": "invalid"}
    return {
        name: float(np.concatenate(generated[f"{column}{suffix}"].to_list()).mean())
        for name, column in names.items()
    }


def is_done(folder: RunFolder, identity: Identity) -> bool:
    """Return whether both files of the cell are in the folder.

    Raises:
        UserError: a file of the cell is not what the run wrote.
    """
    cell = folder.cell(identity.id)
    return all(folder.has(cell / name) for name in ("cell.json", "samples.parquet"))


class Sharing(TypedDict):
    """A comparison of shared with whole texts: see `engines.sharing.SharingCheck`."""

    what: str
    tasks: list[str]
    agrees: bool
    difference: float | None
    tolerance: float | None


class CellFile(TypedDict):
    """The content of `cell.json`; see `Identity`, `arms.Probe` and `paired.Rates` for its parts.

    A cell of texts has `bits_per_byte`, and no `score`.
    """

    id: str
    identity: dict[str, object]
    probe: dict[str, object] | None
    acted: NotRequired[Evidence | None]
    items: int
    score: NotRequired[float]
    bits_per_byte: NotRequired[float]
    prompt_tokens: float
    answers: dict[str, float] | None
    sharing: NotRequired[list[Sharing]]
    noise: NotRequired[dict[str, float] | None]


def read_cell(folder: RunFolder, cell_id: str) -> CellFile:
    """Return the content of a cell's `cell.json`.

    Raises:
        UserError: the file is missing or was changed, or is of another cell.
    """
    path = folder.cell(cell_id) / "cell.json"
    cell: CellFile = folder.read_json(path)
    identity = cell.get("identity") if isinstance(cell, dict) else None
    if not isinstance(identity, dict) or not cell_id == cell.get("id") == identity_id(identity):
        raise UserError(
            f"{path}: its identity is not that of cell {cell_id}; remove its folder and run again"
        )
    return cell


def read_samples(
    folder: RunFolder, cell_id: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return a cell's rows, one per item: all columns, or those in `columns`.

    Raises:
        UserError: the file is missing, damaged or was changed, lacks a column, or a score is not in
            [0, 1], the range of every metric.
    """
    path = folder.cell(cell_id) / "samples.parquet"
    source = pa.BufferReader(folder.read(path))
    try:
        table = pq.read_table(source, columns=None if columns is None else list(columns))
        table.validate(full=True)  # a damaged file can hold text that is no UTF-8
        frame: pd.DataFrame = table.to_pandas()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; delete its folder and run again") from error
    scores = frame["score"] if "score" in frame else pd.Series(dtype=float)
    if not pd.to_numeric(scores, errors="coerce").between(0, 1).all():
        raise UserError(
            f"{path}: a score is not in [0, 1], the range of its metric; delete its folder and run "
            "again"
        )
    return frame
