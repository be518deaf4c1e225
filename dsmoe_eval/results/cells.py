"""Cells on disk: one variant on one task, its identity and one row an item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ..errors import UserError
from ..files import read_json
from .folder import RunFolder

GENERATED = {
    "texts": "text",
    "scores": "score",
    "tokens": "tokens",
    "truncated": "truncated",
    "invalid": "invalid",
}
"""Columns that hold a value for each generated answer of an item, and what of `ScoredAnswer`."""


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
    engine_settings: tuple[tuple[str, int | bool], ...]
    versions: tuple[tuple[str, str], ...]
    batch_tokens: int
    prompt_format: str
    decoding: str
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
        """First 16 hex digits of the SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def answer_rates(rows: pd.DataFrame, suffix: str = "") -> dict[str, float] | None:
    """Of generated answers: mean tokens, shares truncated and invalid.

    Args:
        rows: of cells.
        suffix: of the columns, where rows hold two variants'.

    Returns:
        None where no answer was generated.
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
    """True where the cell was answered before."""
    return (folder.cell(identity.id) / "cell.json").is_file()


class CellFile(TypedDict):
    """The content of `cell.json`; see `Identity`, `arms.Probe` and `paired.Rates` for its parts."""

    id: str
    identity: dict[str, object]
    probe: dict[str, object] | None
    items: int
    score: float
    answers: dict[str, float] | None


def read_cell(folder: RunFolder, cell_id: str) -> CellFile:
    """A cell's `cell.json`."""
    cell: CellFile = read_json(folder.cell(cell_id) / "cell.json")
    return cell


def read_samples(
    folder: RunFolder, cell_id: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A cell's rows; all columns or those named.

    Raises:
        UserError: the file is missing or damaged.
    """
    path: Path = folder.cell(cell_id) / "samples.parquet"
    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns))
        table.validate(full=True)  # a damaged file can hold text that is no UTF-8
        frame: pd.DataFrame = table.to_pandas()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; delete its folder and run again") from error
    return frame
