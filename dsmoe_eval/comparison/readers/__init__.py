"""Results from anywhere, as one table: our cells, lm-eval's samples, Inspect's logs, tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...errors import UserError
from .files import is_json_list, json_records
from .inspect_logs import read_inspect
from .lm_eval_samples import is_lm_eval, read_samples_file, read_samples_files, read_samples_folder
from .results import Results, Selection
from .table_files import SUFFIXES
from .tables import read_frame, read_table, read_table_folder

__all__ = ["Results", "Selection", "read_results"]

Source = str | Path | pd.DataFrame | Results
_LINES = (".jsonl", ".jsonl.gz")
_JSON = (".json", ".json.gz")


def read_results(source: Source, selection: Selection | None = None) -> Results:
    """Read one system's results.

    Args:
        source: a path, or `PATH:WHICH`: a run's folder with `base` or `variant[:target]`, a cell's
            folder, lm-eval's results folder or `samples_*.jsonl`, an Inspect log (`.eval`,
            `.json`), a table (Parquet, CSV, TSV, JSONL, a JSON list of records; text perhaps
            gzipped) or a folder of tables with the column of the scores; or a data frame.
        selection: columns, task, metric and filter where the format leaves them open.

    Raises:
        UserError: the source cannot be read, or leaves open what is to be compared.
    """
    selection = selection or Selection()
    if isinstance(source, Results):
        return source
    if isinstance(source, pd.DataFrame):
        return read_frame(source, selection)
    path, which = _located(str(source))
    if path.is_dir():
        return _read_folder(path, which, selection)
    return _read_file(path, which, selection)


def _read_file(path: Path, which: str | None, selection: Selection) -> Results:
    name = path.name.lower()
    if name.startswith("results_") and name.endswith(".json"):
        raise UserError(
            f"{path}: holds sums only; run lm-eval with --log_samples and name its folder"
        )
    if _is_table(path):
        if which is None and _holds_lm_eval(path):
            return read_samples_file(path, selection)
        return read_table(path, which, selection)
    if which is not None:
        raise UserError(
            f"{path}: takes no {':' + which!r}, which is for runs and tables; leave it out"
        )
    if name.endswith((".eval", ".json")):
        return read_inspect(path, selection)
    raise UserError(
        f"{path}: not a known kind of results; give a run's folder, lm-eval's, an Inspect log "
        f"(.eval, .json) or a table ({', '.join(SUFFIXES)})"
    )


def _is_table(path: Path) -> bool:
    """Return whether a file is a table by its name; JSON also by its first character."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and (not name.endswith(_JSON) or is_json_list(path))


def _holds_lm_eval(path: Path) -> bool:
    if not path.name.lower().endswith((*_LINES, *_JSON)):
        return False
    return is_lm_eval(next(json_records(path), ("", {}))[1])


def _located(source: str) -> tuple[Path, str | None]:
    """Return a path that exists, and the text after the colon behind it."""
    try:
        if Path(source).exists():
            return Path(source), None
        for position in range(len(source) - 1, 0, -1):
            if source[position] == ":" and Path(source[:position]).exists():
                return Path(source[:position]), source[position + 1 :]
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise UserError(f"{source[:100]!r} cannot be a file's name; check the path") from error
    raise UserError(f"{source}: does not exist; check the path")


def _read_folder(path: Path, which: str | None, selection: Selection) -> Results:
    if (path / "comparisons.json").is_file():
        from .own_runs import read_run  # imports torch

        return read_run(path, which, selection)
    if which is None and (path / "cell.json").is_file():
        from .own_runs import read_one_cell

        return read_one_cell(path.resolve(), selection)
    if which is None and any(path.rglob("samples_*.jsonl*")):
        return read_samples_folder(path, selection)
    files = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith((".", "_"))]
    logs = [p for p in files if p.suffix == ".eval"]
    if which is None and len(logs) == 1:
        return read_inspect(logs[0], selection)
    if logs:
        raise UserError(f"{path}: holds {len(logs)} Inspect logs; name one, such as {logs[0]}")
    tables = [p for p in files if _is_table(p) and not p.name.startswith("results_")]
    if tables and which is None and all(map(_holds_lm_eval, tables)):
        return read_samples_files(path, tables, selection)
    if tables:
        return read_table_folder(path, tables, which, selection)
    if which is not None:
        raise UserError(
            f"{path}: neither a finished run (comparisons.json) nor a folder of tables, so there "
            f"is no {which!r} in it; name the run's folder"
        )
    raise UserError(
        f"{path}: neither a finished run nor a cell, and neither samples of lm-eval nor a table in "
        "it; run lm-eval with --log_samples, or name a file"
    )
