"""Tables with one row per item: files of every format, folders of them, and data frames."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import UserError
from ...tasks.items import digest, wording_of
from .answers import judged
from .columns import Strings, canonical, check_names, column_texts
from .results import Measures, Results, Selection, finish, first_few
from .table_files import SUFFIXES, LoadedTable, load_table, load_tables

_USUAL = (
    "domain", "cluster", "sample", "gold", "task", "metric", "filter", "question", "options",
    "score",
)  # fmt: skip
_NAMES = ("id", "domain", "cluster", "sample")
_FROM_ITEMS = ("domain", "cluster", "gold")
_SHARD = re.compile(r"[-_.]?(\bpart[-_.]\d+.*|\d{3,}[-_]of[-_]\d{3,})$")
_TRUTH = {"true": "1", "false": "0"}


def read_table(path: Path, which: str | None, selection: Selection) -> Results:
    """Read a table from a file.

    Args:
        path: a file with one of `SUFFIXES`.
        which: the column of the scores, instead of the selection's.
        selection: the columns; by default item, score, domain, cluster, sample, task, metric,
            filter, gold, and question with options, as far as they exist.

    Raises:
        UserError: the file cannot be read, a column is missing, or a value is not a score.
    """
    source = str(path) if which is None else f"{path}:{which}"
    return _read(source, load_table(path, _candidates(which, selection)), which, selection)


def read_table_folder(
    folder: Path, files: Sequence[Path], which: str | None, selection: Selection
) -> Results:
    """Read a folder of tables: one task per file, or shards of one table.

    `part-0`, `test-00001-of-00003` and the like are shards of one table. Any other file is a task,
    named as the file is unless the table has a column `task`; its domain is the task unless there
    is a column `domain`.

    Args:
        folder: the name of the source.
        files: the tables in it.
        which: as `read_table`.
        selection: as `read_table`.

    Raises:
        UserError: as `read_table`.
    """
    source = str(folder) if which is None else f"{folder}:{which}"
    groups: dict[str, list[Path]] = {}
    for path in sorted(files):
        groups.setdefault(_task_of(path), []).append(path)
    parts = [
        _named_task(
            load_tables(paths, _candidates(which, selection)), task if len(groups) > 1 else None
        )
        for task, paths in groups.items()
    ]
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    notes = tuple(note for part in parts for note in part.notes)
    return _read(source, LoadedTable(names, frame, notes), which, selection)


def _task_of(path: Path) -> str:
    """Return a file's name without its suffix and its number as a shard."""
    name = path.name
    suffix = next(suffix for suffix in SUFFIXES if name.lower().endswith(suffix))
    return _SHARD.sub("", name[: -len(suffix)])


def _named_task(loaded: LoadedTable, task: str | None) -> LoadedTable:
    frame, names = loaded.frame, loaded.names
    for name in ("task", "domain"):
        if task is not None and name not in names:
            frame, names = frame.assign(**{name: task}), (*names, name)
    return LoadedTable(names, frame.astype(object), loaded.notes)


def read_frame(frame: pd.DataFrame, selection: Selection, source: str = "table") -> Results:
    """Read a data frame, as `read_table` reads a file."""
    names = [str(name) for name in frame.columns]
    return _read(source, LoadedTable(tuple(names), frame.set_axis(names, axis=1)), None, selection)


def _requested(which: str | None, selection: Selection) -> dict[str, str]:
    """Return the columns that the user names: our name -> the table's."""
    requested = {
        "id": selection.id, "score": which or selection.score, "domain": selection.domain,
        "cluster": selection.cluster, "sample": selection.sample, "gold": selection.gold,
    }  # fmt: skip
    return {ours: theirs for ours, theirs in requested.items() if theirs is not None}


def _candidates(which: str | None, selection: Selection) -> set[str]:
    return {*_USUAL, "item", *_requested(which, selection).values()}


def _read(source: str, loaded: LoadedTable, which: str | None, selection: Selection) -> Results:
    requested = _requested(which, selection)
    if selection.match is not None and selection.gold is None:
        raise UserError(f"{source}: --match compares answers with right ones; name them: --gold")
    items = None
    if selection.items is not None:
        items = load_table(selection.items, {selection.id or "item", *requested.values()})
    columns = _columns(source, loaded.names, requested, items.names if items else ())
    table = _as_texts(source, loaded.frame, columns, selection)
    if items is not None:
        table = _joined(table, items, requested, selection, source)
    table = _selected(table, selection, source)
    tasks = sorted(set(table["task"].dropna())) if "task" in table else []
    measures: Measures = {task: _measure(table) for task in tasks or [""]}
    table, missing = _without_missing(table, selection)
    notes = loaded.notes + (items.notes if items else ())
    if selection.gold is None:
        scores = _numbers(table, source)
    else:
        scores, near = judged(
            source, table["score"], table["gold"], selection.match or "exact",
            selection.no_missing_value,
        )  # fmt: skip
        notes += near
    table = _with_content(table.assign(score=scores))
    return finish(
        source, table, measures, notes=notes, unscored=missing, id_name=columns.get("id", "id")
    )


def _columns(
    source: str, names: Sequence[str], requested: Mapping[str, str], elsewhere: Collection[str]
) -> dict[str, str]:
    """Return what each of our columns is called in the table."""
    columns = dict(requested)
    for ours, theirs in requested.items():
        if theirs in names:
            continue
        if theirs not in elsewhere or ours not in _FROM_ITEMS:
            raise UserError(f"{source}: no column {theirs!r}; name one of {', '.join(names)}")
        del columns[ours]
    for name in _USUAL:
        if name in names:
            columns.setdefault(name, name)
    if "item" in names:
        columns.setdefault("id", "item")
    if "score" not in columns:
        raise UserError(
            f"{source}: no column 'score'; name one of {', '.join(names)}: FILE:COLUMN or --score"
        )
    if "id" not in columns and not {"question", "gold"} <= set(columns):
        raise UserError(
            f"{source}: no column 'item'; name the column that names items with --id, one of "
            f"{', '.join(names)}"
        )
    return columns


def _as_texts(
    source: str, frame: pd.DataFrame, columns: Mapping[str, str], selection: Selection
) -> pd.DataFrame:
    """Return the columns as text, but scores as numbers where the table has them as such."""
    frame = frame.reset_index(drop=True)
    for ours in _NAMES:
        if ours in columns:
            check_names(source, frame[columns[ours]], columns[ours])
    scores = frame[columns["score"]]
    plain = selection.gold is None and selection.missing_value is None
    numeric = isinstance(scores.dtype, np.dtype) and scores.dtype.kind in "iufb"
    keep = plain and numeric and scores.dtype != np.float32 and scores.dtype != np.float16
    texts = {
        ours: column_texts(frame[theirs])
        for ours, theirs in columns.items()
        if not (keep and ours == "score")
    }
    table = pd.DataFrame(texts | ({"score": scores} if keep else {}))
    if "id" in table and table["id"].isna().any():
        row = int(np.flatnonzero(table["id"].isna())[0]) + 1
        raise UserError(
            f"{source}: row {row} has no {columns['id']!r}, which names the item; fill the column, "
            "or name another with --id"
        )
    return table


def _joined(
    table: pd.DataFrame, items: LoadedTable, requested: Mapping[str, str], selection: Selection,
    source: str,
) -> pd.DataFrame:  # fmt: skip
    """Return the table with more columns of the items."""
    path, key = selection.items, selection.id or "item"
    more = {
        ours: requested[ours]
        for ours in _FROM_ITEMS
        if ours in requested and requested[ours] in items.frame and ours not in table
    }
    if key not in items.frame or "id" not in table:
        raise UserError(
            f"{path}: no column {key!r} to join the items by; name the column that both tables "
            f"have with --id, here one of {', '.join(items.names)}"
        )
    columns = {ours: column_texts(items.frame[theirs]).to_numpy() for ours, theirs in more.items()}
    added = pd.DataFrame(columns, index=pd.Index(column_texts(items.frame[key])))
    if added.index.has_duplicates:
        twice = added.index[added.index.duplicated()][0]
        raise UserError(
            f"{path}: two rows for item {twice!r} of column {key!r}; keep one, or name another --id"
        )
    unknown = table["id"][~table["id"].isin(added.index)]
    if len(unknown):
        raise UserError(
            f"{path}: lacks {len(unknown)} items of {source}: {first_few(unknown)}; add them, or "
            "name another --id"
        )
    return table.assign(**{name: added[name].reindex(table["id"]).to_numpy() for name in more})


def _selected(table: pd.DataFrame, selection: Selection, source: str) -> pd.DataFrame:
    """Return the rows of one metric and one filter, and of the requested task."""
    for name, value in (
        ("task", selection.task), ("metric", selection.metric), ("filter", selection.filter),
    ):  # fmt: skip
        if name not in table:
            continue
        names = sorted(map(str, table[name].dropna().unique()))
        if value is not None:
            if value not in names:
                raise UserError(
                    f"{source}: no {name} {value!r}; name one of {first_few(names)} with --{name}"
                )
            table = table[table[name] == value]
        elif name != "task" and len(names) > 1:
            raise UserError(
                f"{source}: {len(names)} {name}s; choose one: --{name} {' or '.join(names)}"
            )
    return table.reset_index(drop=True)


def _measure(table: pd.DataFrame) -> tuple[str | None, str | None]:
    def only(name: str) -> str | None:
        values = table[name].dropna() if name in table else table["score"].iloc[:0]
        return str(values.iloc[0]) if len(values) else None

    return only("metric"), only("filter")


def _without_missing(
    table: pd.DataFrame, selection: Selection
) -> tuple[pd.DataFrame, list[tuple[str | None, str]]]:
    """Return the items that were put to the model, and tasks and ids of the others."""
    if selection.missing_value is None:
        return table, []
    marks = {selection.missing_value, canonical(selection.missing_value)}
    missing = table["score"].fillna("").isin(marks)
    left_out = table[missing]
    names = left_out["id"] if "id" in table else left_out["question"]
    tasks = left_out["task"] if "task" in table else [None] * len(left_out)
    return table[~missing].reset_index(drop=True), list(zip(tasks, map(str, names), strict=True))


def _numbers(table: pd.DataFrame, source: str) -> pd.Series[float]:
    values = table["score"]
    numeric = isinstance(values.dtype, np.dtype) and values.dtype.kind in "iufb"
    numbers = values.astype(np.float64) if numeric else _parsed(values)
    wrong = np.flatnonzero(~np.isfinite(numbers.to_numpy()))
    if wrong.size:
        value = values.iloc[wrong[0]]
        empty = value is None or value != value
        raise UserError(
            f"{source}: {wrong.size} score(s) are not finite numbers, first in row {wrong[0] + 1} "
            f"({'empty' if empty else repr(value)[:60]}); if such items were not put to the model "
            f"say --missing-value {chr(39) * 2 if empty else str(value)[:60]}; if the column holds "
            "answers name the right ones with --gold"
        )
    return numbers


def _parsed(values: Strings) -> pd.Series[float]:
    """Return the numbers that texts spell, NaN where one spells none."""
    text = values.map(lambda value: _TRUTH.get(str(value).lower(), value))
    return pd.to_numeric(text, errors="coerce").astype(np.float64)


def _with_content(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with hashes of its questions; content names items without a name."""
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
