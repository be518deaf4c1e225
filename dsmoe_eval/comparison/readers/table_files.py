"""Tables in files: Parquet, CSV (also with semicolons or tabs), JSONL, a JSON list of records."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...errors import UserError
from .files import MOST_BYTES, MOST_ROWS, by_library, check_file, json_records, open_utf8
from .results import first_few

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv

SUFFIXES = (
    ".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz",
)  # fmt: skip
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")
_QUOTED = re.compile(rb'"[^"]*"')
_HEADER = 2**20


@dataclass(frozen=True, slots=True)
class LoadedTable:
    """Some columns of a table.

    Attributes:
        names: the names of all columns of the file.
        frame: the columns that were requested and exist, of the types that the file gives;
            integers with gaps are Python integers and None, never floats.
        notes: what the user should know of the reading.
    """

    names: tuple[str, ...]
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def load_table(path: Path, columns: Collection[str]) -> LoadedTable:
    """Read the columns of a table that exist.

    Args:
        path: a file with one of `SUFFIXES`.
        columns: the names of the requested columns.

    Raises:
        UserError: the file cannot be read, or two columns have the same name.
    """
    check_file(path)
    if path.suffix == ".parquet":
        return by_library(path, lambda: _load_parquet(path, columns))
    if ".jsonl" in path.suffixes or ".json" in path.suffixes:
        return _load_json(path, columns)
    return by_library(path, lambda: _load_csv(path, columns))


def load_tables(paths: Sequence[Path], columns: Collection[str]) -> LoadedTable:
    """Read the files of one table, whose columns are the union over the files."""
    tables = [load_table(path, columns) for path in paths]
    names = tuple(dict.fromkeys(name for table in tables for name in table.names))
    wanted = [name for name in names if name in columns]
    values = {
        name: [
            value
            for table in tables
            for value in (
                table.frame[name].tolist() if name in table.frame else [None] * len(table.frame)
            )
        ]
        for name in wanted
    }
    frame = pd.DataFrame({name: pd.Series(values[name], dtype=object) for name in wanted})
    return LoadedTable(names, frame, tuple(n for table in tables for n in table.notes))


def _check_columns(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: has two columns {first_few(twice)}; rename one of them")


def _check_size(path: Path, rows: int, size: int) -> None:
    if rows > MOST_ROWS or size > MOST_BYTES:
        raise UserError(f"{path}: more than {MOST_ROWS:,} rows or 8 GiB; split it by task")


def _load_parquet(path: Path, columns: Collection[str]) -> LoadedTable:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        _check_columns(path, names)
        _check_size(path, file.metadata.num_rows, 0)
        wanted = [name for name in names if name in columns]
        # Without pandas' own metadata, which could name an index or a type.
        table = file.read(columns=wanted).replace_schema_metadata()
    table.validate(full=True)  # a damaged file can hold text that is not UTF-8
    frame = pd.DataFrame({name: _arrow_column(table[name]) for name in wanted})
    return LoadedTable(tuple(names), frame)


def _arrow_column(column: pa.ChunkedArray) -> pd.Series:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    plain = pa.types.is_floating(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if plain or (
        column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    ):
        return pd.Series(column.to_pandas())
    return pd.Series(column.to_pylist(), dtype=object)


def _load_json(path: Path, columns: Collection[str]) -> LoadedTable:
    names: dict[str, None] = {}
    values: dict[str, list[object]] = {}
    rows = 0
    for _, record in json_records(path):
        names.update(dict.fromkeys(record))
        for name in columns:
            if name in record:
                column = values.setdefault(name, [])
                column.extend([None] * (rows - len(column)))
                column.append(record[name])
        rows += 1
    frame = pd.DataFrame(
        {
            name: pd.Series(column + [None] * (rows - len(column)), dtype=object)
            for name, column in values.items()
        },
        index=range(rows),
    )
    return LoadedTable(tuple(names), frame)


def _load_csv(path: Path, columns: Collection[str]) -> LoadedTable:
    import pyarrow as pa

    delimiter = _delimiter(path)
    with _open_csv(path, delimiter, None) as reader:
        names = list(reader.schema.names)
    _check_columns(path, names)
    wanted = [name for name in names if name in columns]
    parts, rows, size = [], 0, 0
    with _open_csv(path, delimiter, wanted or names[:1]) as reader:
        for batch in reader:
            rows, size = rows + batch.num_rows, size + batch.nbytes
            _check_size(path, rows, size)
            parts.append(batch)
        table = pa.Table.from_batches(parts, reader.schema)
    frame = pd.DataFrame({name: table[name].to_pandas().astype(object) for name in wanted})
    if delimiter != ";":
        return LoadedTable(tuple(names), frame)
    return LoadedTable(tuple(names), *_with_decimal_points(path, frame))


def _open_csv(path: Path, delimiter: str, names: list[str] | None) -> csv.CSVStreamingReader:
    import pyarrow as pa
    from pyarrow import csv

    return csv.open_csv(
        pa.PythonFile(open_utf8(path), mode="r"),
        read_options=csv.ReadOptions(use_threads=False, block_size=16 * 2**20),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.string() for name in names or ()}, include_columns=names or []
        ),
    )


def _delimiter(path: Path) -> str:
    """Return the most frequent of comma, semicolon and tab in the header, quotes left out."""
    with open_utf8(path) as file:
        header = _QUOTED.sub(b"", file.readline(_HEADER))
    usual = "\t" if ".tsv" in path.suffixes else ","
    counts = {mark: header.count(mark.encode()) for mark in (usual, ",", ";", "\t")}
    return max(counts, key=counts.__getitem__)


def _with_decimal_points(path: Path, frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a semicolon table's columns with decimal points where all numbers have commas."""
    changed = []
    for name in frame:
        texts = [text for text in frame[name] if text]
        if any("," in text for text in texts) and all(map(_DECIMAL_COMMA.fullmatch, texts)):
            frame = frame.assign(**{str(name): frame[name].str.replace(",", ".", regex=False)})
            changed.append(str(name))
    if not changed:
        return frame, ()
    return frame, (f"{path.name}: decimal commas of {first_few(changed)} are read as points",)


Loader = Callable[[Collection[str]], LoadedTable]
"""Reads the columns of a source that exist."""
