"""Data sets from local folders instead of the hub: `--data DIR`.

A hub data set `organisation/name` is read from its snapshot in `DIR/organisation/name` or, for
those in `LAYOUTS`, from the files in their authors' layout. Several folders are searched in their
order.
"""

from __future__ import annotations

import csv
import io
import json
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line
from .opening import UnreadableTaskError

if TYPE_CHECKING:
    from datasets import DatasetDict

_DAMAGE = (csv.Error, zipfile.BadZipFile, zlib.error)
Row = dict[str, Any]
Rows = list[Row]
Read = Callable[[Path, str | None], Mapping[str, Rows]]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@contextmanager
def local_data(folders: Sequence[Path]) -> Iterator[None]:
    """Make lm-eval's tasks load their data from the given folders, if any, inside the context.

    Raises:
        UserError: a folder does not exist; inside the context: no folder has the data set.
    """
    if not folders:
        yield
        return
    import datasets
    import lm_eval.api.task as module

    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--data {folder}: no such folder")

    def load_dataset(path: str, name: str | None = None, **given: object) -> DatasetDict:
        if path in {"json", "csv", "parquet", "arrow"}:
            return datasets.load_dataset(path, name, **given)
        return local_dataset(folders, path, name)

    module.datasets = types.SimpleNamespace(**vars(datasets) | {"load_dataset": load_dataset})
    try:
        yield
    finally:
        module.datasets = datasets


def local_dataset(folders: Sequence[Path], path: str, name: str | None) -> DatasetDict:
    """Load a data set from local folders.

    Args:
        folders: folders of local data.
        path: the hub's name of the data set.
        name: the configuration of the data set.

    Raises:
        UnreadableTaskError: no folder has the data set.
        UserError: one of its files cannot be read.
    """
    import datasets

    for snapshot in (folder / path for folder in folders if (folder / path).is_dir()):
        try:
            return datasets.load_dataset(str(snapshot), name)
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"{snapshot}: data set {path!r} cannot be read ({one_line(error)}); download its "
                "snapshot again"
            ) from error
    missing = f"put its snapshot into {folders[-1] / path} (without --data it comes from the hub)"
    if path not in LAYOUTS:
        raise UnreadableTaskError(f"--data: no data set {path!r}; {missing}")
    for folder in folders:
        try:
            return _dataset(LAYOUTS[path](folder, name))
        except FileNotFoundError as error:
            missing = f"no {error.filename}; {missing}"
        except (OSError, LookupError, TypeError, ValueError, *_DAMAGE) as error:
            lack = " is missing" if isinstance(error, LookupError) else ""
            raise UserError(
                f"--data {folder}: data set {path!r} cannot be read ({one_line(error)}{lack}); "
                "download it again"
            ) from error
    raise UnreadableTaskError(f"--data: no data set {path!r}: {missing}")


def _dataset(splits: Mapping[str, Rows]) -> DatasetDict:
    import datasets

    filled = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items() if rows}
    empty = {name: next(iter(filled.values())).select([]) for name in splits.keys() - filled}
    return datasets.DatasetDict(filled | empty)


def _mmlu_pro(folder: Path, _name: str | None) -> Mapping[str, Rows]:
    import pyarrow.parquet

    names = ("test", "validation")
    tables = {name: folder / "mmlu_pro" / f"{name}.parquet" for name in names}
    return {
        n: pyarrow.parquet.read_table(path.open("rb")).to_pylist() for n, path in tables.items()
    }


def _mmlu(folder: Path, name: str | None) -> Mapping[str, Rows]:
    """Read the authors' archive of `data/{dev,val,test}/<subject>_*.csv`."""
    found = {}
    with zipfile.ZipFile(folder / "mmlu" / "mmlu_hendrycks_csv.zip") as archive:
        for split, part in (("dev", "dev"), ("validation", "val"), ("test", "test")):
            text = archive.read(f"data/{part}/{name}_{part}.csv").decode("utf-8")
            rows = csv.reader(io.StringIO(text, newline=""))
            found[split] = [
                {
                    "question": question,
                    "subject": name,
                    "choices": choices,
                    "answer": LETTERS.index(gold),
                }
                for question, *choices, gold in rows
            ]
    return found


def _aime(file: str, split: str, columns: Mapping[str, str]) -> Read:
    def read(folder: Path, _name: str | None) -> Mapping[str, Rows]:
        rows = _json_lines(folder / "aime" / file)
        return {split: [{new: str(row[old]) for old, new in columns.items()} for row in rows]}

    return read


def _math500(folder: Path, _name: str | None) -> Mapping[str, Rows]:
    return {"test": _json_lines(folder / "math500" / "math500_test.jsonl")}


def _science(file: str, config: str, question: str) -> Read:
    """Return a reader of ARC or OpenBookQA, of which only the test questions are available."""

    def read(folder: Path, name: str | None) -> Mapping[str, Rows]:
        if name != config:
            raise ValueError(f"of its configurations only {config!r} is there, not {name!r}")
        rows = [one(row) for row in _json_lines(folder / "mcqa" / file)]
        return {"train": [], "validation": [], "test": rows}

    def one(row: Row) -> Row:
        labels = list(LETTERS[: len(row["choices"])])
        return {
            question: row["query"].removeprefix("Question: "),
            "choices": {"text": row["choices"], "label": labels},
            "answerKey": labels[row["gold"]],
        }

    return read


def _json_lines(path: Path) -> Rows:
    # Not str.splitlines, which also splits at U+2028 inside a text.
    rows = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return rows


LAYOUTS: Mapping[str, Read] = {
    "TIGER-Lab/MMLU-Pro": _mmlu_pro,
    "cais/mmlu": _mmlu,
    "Maxwell-Jia/AIME_2024": _aime(
        "aime_2024.jsonl", "train", {"id": "ID", "problem": "Problem", "answer": "Answer"}
    ),
    "math-ai/aime25": _aime(
        "aime_2025.jsonl", "test", {"id": "id", "problem": "problem", "answer": "answer"}
    ),
    "HuggingFaceH4/MATH-500": _math500,
    "allenai/ai2_arc": _science("arc_challenge.jsonl", "ARC-Challenge", "question"),
    "allenai/openbookqa": _science("openbook_qa.jsonl", "main", "question_stem"),
}
"""Readers of files in their authors' layout, by the hub's name of the data set."""
