"""Tables with a row an item: Parquet, CSV, JSONL, or a data frame in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...errors import UserError
from ...tasks.items import digest, wording_of
from .files import MOST_BYTES, MOST_ROWS, by_library, check_file, json_lines
from .results import Measures, Results, Selection, finish, first_few

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz")
_NOT_ASKED = {"missing", "na", "n/a", "nan", "null", "none", "skipped", "error"}


def read_table(path: Path, which: str | None, selection: Selection) -> Results:
    """Read a table.

    Args:
        path: with one of `SUFFIXES`.
        which: column of the scores, instead of the selection's.
        selection: columns are by default item, score, domain, cluster, sample, task, metric,
            filter, gold and question with options, as far as they are there.

    Raises:
        UserError: the file cannot be read, a column is missing, or a value is no score.
    """
    source = str(path) if which is None else f"{path}:{which}"
    wanted = _columns(column_names(path), which, selection, source)
    return from_frame(source, _load(path, wanted.values()), wanted, selection)


def read_frame(frame: pd.DataFrame, selection: Selection, source: str = "table") -> Results:
    """As `read_table`, of a data frame."""
    wanted = _columns([str(name) for name in frame.columns], None, selection, source)
    return from_frame(source, frame, wanted, selection)


def column_names(path: Path) -> list[str]:
    """The columns of a table; of JSONL the keys of its first row.

    Raises:
        UserError: the file cannot be read, or two columns have one name.
    """
    check_file(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        names = by_library(path, lambda: list(parquet.read_schema(path).names))
    elif ".jsonl" in path.suffixes:
        names = list(next(json_lines(path), (0, {}))[1])
    else:
        names = by_library(path, lambda: list(_open_csv(path, None).schema.names))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: has two columns {first_few(twice)}; rename one")
    return names


def _columns(
    names: Sequence[str], which: str | None, selection: Selection, source: str
) -> dict[str, str]:
    """What each of our columns is called in the table."""
    asked = {
        "id": selection.id, "score": which or selection.score, "domain": selection.domain,
        "cluster": selection.cluster, "sample": selection.sample, "gold": selection.gold,
    }  # fmt: skip
    wanted = {ours: theirs for ours, theirs in asked.items() if theirs is not None}
    elsewhere = set(column_names(selection.items)) if selection.items else set()
    for option, theirs in list(wanted.items()):
        if theirs not in names:
            if theirs in elsewhere and option in {"domain", "cluster", "gold"}:
                del wanted[option]
                continue
            raise UserError(f"{source}: no column {theirs!r}; there are {', '.join(names)}")
    usual = ("domain", "cluster", "sample", "gold", "task", "metric", "filter", "question")
    for name in (*usual, "options", "score"):
        if name in names:
            wanted.setdefault(name, name)
    if "item" in names:
        wanted.setdefault("id", "item")
    if "score" not in wanted:
        raise UserError(
            f"{source}: no column 'score'; name one of {', '.join(names)}: FILE:COLUMN or --score"
        )
    if "id" not in wanted and not {"question", "gold"} <= set(wanted):
        raise UserError(f"{source}: no column 'item'; name the one that tells items apart: --id")
    return wanted


def _load(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """The columns; of text formats as strings."""
    names = list(dict.fromkeys(columns))
    if path.suffix == ".parquet":
        return by_library(path, lambda: _load_parquet(path, names))
    if ".jsonl" in path.suffixes:
        return _load_jsonl(path, names)
    return by_library(path, lambda: _load_csv(path, names))


def _load_parquet(path: Path, names: list[str]) -> pd.DataFrame:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise UserError(f"{path}: more than {MOST_ROWS:,} rows; split it by task")
        # Without pandas' own metadata, which could name an index or a type.
        table = file.read(columns=names).replace_schema_metadata()
    table.validate(full=True)  # a damaged file can hold text that is no UTF-8
    return pd.DataFrame({name: table[name].to_pandas() for name in names})


def _load_jsonl(path: Path, names: list[str]) -> pd.DataFrame:
    values: dict[str, list[Any]] = {name: [] for name in names}
    for number, row in json_lines(path):
        for name in names:
            if name not in row:
                raise UserError(f"{path}, line {number}: no {name!r}")
            values[name].append(row[name])
    return pd.DataFrame({name: pd.Series(column) for name, column in values.items()})


def _open_csv(path: Path, names: list[str] | None) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    types = {name: pa.string() for name in names or ()}
    stream = pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None)
    return csv.open_csv(
        stream,
        read_options=csv.ReadOptions(use_threads=False, block_size=16 * 2**20),
        parse_options=csv.ParseOptions(
            delimiter="\t" if ".tsv" in path.suffixes else ",", newlines_in_values=True
        ),
        convert_options=csv.ConvertOptions(column_types=types, include_columns=names or []),
    )


def _load_csv(path: Path, names: list[str]) -> pd.DataFrame:
    parts, rows, size = [], 0, 0
    with _open_csv(path, names) as reader:
        for batch in reader:
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows > MOST_ROWS or size > MOST_BYTES:
                raise UserError(f"{path}: more than {MOST_ROWS:,} rows or 8 GiB; split it by task")
            parts.append(batch)
        import pyarrow as pa

        table = pa.Table.from_batches(parts, reader.schema)
    return pd.DataFrame({name: table[name].to_pandas() for name in names})


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Strings; numbers as Python writes them, lists as JSON; None where there is no value."""
    if column.dtype.kind in "iub":
        return column.astype(str)
    if column.dtype.kind == "f":
        return column.map(repr, na_action="ignore").astype("object").where(column.notna(), None)
    if isinstance(column.dtype, pd.StringDtype):
        return column
    return column.map(_text)


def _text(value: Any) -> str | None:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | dict):
        return digest(value)
    return str(value)


def from_frame(
    source: str, frame: pd.DataFrame, wanted: dict[str, str], selection: Selection
) -> Results:
    """Make results of a table.

    Args:
        source: what the user called it.
        frame: the table.
        wanted: our column -> its name in the table.
        selection: as `read_table`.
    """
    frame = frame.reset_index(drop=True)
    table = pd.DataFrame({ours: _as_text(frame[theirs]) for ours, theirs in wanted.items()})
    scores = frame[wanted["score"]]
    if selection.gold is None and selection.absent is None and scores.dtype.kind in "iufb":
        table["score"] = scores
    if "id" in table and table["id"].isna().any():
        row = int(np.flatnonzero(table["id"].isna())[0]) + 1
        raise UserError(f"{source}: row {row} has no {wanted['id']!r}; every item needs its own")
    if selection.items is not None:
        table = _joined(table, selection, source)
    table = _selected(table, selection, source)
    tasks = sorted(set(table["task"].dropna())) if "task" in table else []
    measures: Measures = {task: _measure(table) for task in tasks or [""]}
    table, left_out = _asked(table, selection)
    scores = _judged(table, source) if selection.gold else _numbers(table, source)
    table = _with_content(table.assign(score=scores))
    return finish(source, table, measures, unscored=left_out)


def _joined(table: pd.DataFrame, selection: Selection, source: str) -> pd.DataFrame:
    """Add columns of the items from another table."""
    path, key = selection.items, selection.id or "item"
    assert path is not None  # noqa: S101 - for the type checker
    asked = {"domain": selection.domain, "cluster": selection.cluster, "gold": selection.gold}
    names = set(column_names(path))
    more = {a: b for a, b in asked.items() if b is not None and b in names and a not in table}
    if key not in names or "id" not in table:
        raise UserError(f"{path}: no column {key!r} to join it by; name the one of both: --id")
    items = _load(path, [key, *more.values()])
    columns = {a: _as_text(items[b]).to_numpy() for a, b in more.items()}
    added = pd.DataFrame(columns, index=pd.Index(_as_text(items[key])))
    if added.index.has_duplicates:
        twice = added.index[added.index.duplicated()][0]
        raise UserError(f"{path}: item {twice!r} stands there twice; name another --id")
    unknown = table["id"][~table["id"].isin(added.index)]
    if len(unknown):
        raise UserError(f"{path}: lacks {len(unknown)} items of {source}: {first_few(unknown)}")
    return table.assign(**{name: added[name].reindex(table["id"]).to_numpy() for name in more})


def _selected(table: pd.DataFrame, selection: Selection, source: str) -> pd.DataFrame:
    """Rows of one metric and one filter, and of the task that was asked for."""
    for name, value in (
        ("task", selection.task), ("metric", selection.metric), ("filter", selection.filter),
    ):  # fmt: skip
        if name not in table:
            continue
        found = sorted(map(str, table[name].dropna().unique()))
        if value is not None:
            if value not in found:
                raise UserError(f"{source}: no {name} {value!r}; there are {first_few(found)}")
            table = table[table[name] == value]
        elif name != "task" and len(found) > 1:
            raise UserError(f"{source}: {len(found)} {name}s; choose one: --{name} {found[0]}")
    return table.reset_index(drop=True)


def _measure(table: pd.DataFrame) -> tuple[str | None, str | None]:
    def only(name: str) -> str | None:
        values = table[name].dropna() if name in table else table["score"].iloc[:0]
        return str(values.iloc[0]) if len(values) else None

    return only("metric"), only("filter")


def _asked(table: pd.DataFrame, selection: Selection) -> tuple[pd.DataFrame, Sequence[str]]:
    """Without items that were not asked."""
    if selection.absent is None:
        return table, ()
    absent = table["score"].fillna("") == selection.absent
    names = table["id"] if "id" in table else table["question"]
    return table[~absent].reset_index(drop=True), list(names[absent])


def _judged(table: pd.DataFrame, source: str) -> pd.Series[Any]:
    """1 where the answer is the gold one; no answer is a wrong one."""
    if "gold" not in table or table["gold"].isna().any() or (table["gold"] == "").any():
        raise UserError(f"{source}: not every item has a gold answer; name the column: --gold")
    answers = table["score"].fillna("")
    marks = [a for a in answers.unique() if a.lower() in _NOT_ASKED and a not in set(table["gold"])]
    if marks:
        raise UserError(
            f"{source}: {int((answers == marks[0]).sum())} answers are {marks[0]!r}; if these "
            f"items were not asked say --absent {marks[0]}, and if they are wrong make them empty"
        )
    return (answers == table["gold"]).astype(np.float64)


def _numbers(table: pd.DataFrame, source: str) -> pd.Series[Any]:
    values = table["score"]
    numbers = values.astype(np.float64) if values.dtype.kind in "iufb" else _parsed(values)
    wrong = np.flatnonzero(~np.isfinite(numbers.to_numpy()))
    if wrong.size:
        value = values.iloc[wrong[0]]
        shown = "empty" if value is None or value != value or value == "" else repr(value)[:60]
        raise UserError(
            f"{source}: {wrong.size} score(s) are no finite number, first in row {wrong[0] + 1} "
            f"({shown}); if such items were not asked say --absent VALUE"
        )
    return numbers


def _parsed(values: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers of strings, NaN where one is none."""
    truth = {"true": "1", "True": "1", "TRUE": "1", "false": "0", "False": "0", "FALSE": "0"}
    text = values.where(~values.isin(truth), values.map(truth))
    return pd.to_numeric(text, errors="coerce").astype(np.float64)


def _with_content(table: pd.DataFrame) -> pd.DataFrame:
    """Hashes of what is known of the items; items without a name are named by their content."""
    if "question" in table:
        words = table["question"].fillna("")
        options = table["options"] if "options" in table else [None] * len(table)
        if "cluster" not in table:
            table = table.assign(cluster=[wording_of(text) for text in words])
        table = table.assign(question=[digest(*p) for p in zip(words, options, strict=True)])
    if "gold" in table:
        golds = table["gold"].fillna("")
        table = table.assign(gold=golds)
        if "question" in table:
            both = zip(table["question"], golds, strict=True)
            table = table.assign(content=[digest(*pair) for pair in both])
            if "id" not in table:
                table = table.assign(id=table["content"])
    return table
