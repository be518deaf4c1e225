"""Results from anywhere, as one table: our cells, lm-eval's samples, Inspect's logs, tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...errors import UserError
from .files import json_lines
from .inspect_logs import read_inspect
from .lm_eval_samples import is_lm_eval, read_samples_file, read_samples_folder
from .own_runs import read_one_cell, read_run
from .results import COLUMNS, Results, Selection
from .tables import SUFFIXES, read_frame, read_table

__all__ = ["COLUMNS", "Results", "Selection", "read_results"]

Source = str | Path | pd.DataFrame | Results


def read_results(source: Source, selection: Selection | None = None) -> Results:
    """Read one system's results.

    Args:
        source: a path, or `PATH:WHICH`: a run's folder with `base` or `variant[:target]`, a cell's
            folder, lm-eval's results folder or `samples_*.jsonl`, an Inspect log (`.eval`,
            `.json`), a table (Parquet, CSV, TSV, JSONL; the last three perhaps gzipped) with the
            column of the scores; or a data frame.
        selection: columns, task, metric and filter where the format leaves them open.

    Raises:
        UserError: it cannot be read, or leaves open what is to be compared.
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
    if name.endswith((".jsonl", ".jsonl.gz")) and which is None:
        first = next(json_lines(path), (0, {}))[1]
        if is_lm_eval(first):
            return read_samples_file(path, selection)
    if name.endswith(SUFFIXES):
        return read_table(path, which, selection)
    if which is not None:
        raise UserError(f"{path}: takes no {':' + which!r}; that is for runs and tables")
    if name.startswith("results_") and name.endswith(".json"):
        raise UserError(f"{path}: sums only; run lm-eval with --log_samples and name its folder")
    if name.endswith((".eval", ".json")):
        return read_inspect(path, selection)
    raise UserError(
        f"{path}: no known kind of results; give a run's folder, lm-eval's, an Inspect log "
        f"(.eval, .json) or a table ({', '.join(SUFFIXES)})"
    )


def _located(source: str) -> tuple[Path, str | None]:
    """A path that exists, and what is named behind its colon."""
    try:
        if Path(source).exists():
            return Path(source), None
        for place in range(len(source) - 1, 0, -1):
            if source[place] == ":" and Path(source[:place]).exists():
                return Path(source[:place]), source[place + 1 :]
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise UserError(f"{source[:100]!r} names no file") from error
    raise UserError(f"{source} does not exist")


def _read_folder(path: Path, which: str | None, selection: Selection) -> Results:
    if (path / "comparisons.json").is_file():
        return read_run(path, which, selection)
    if which is not None:
        raise UserError(f"{path}: holds no finished run (comparisons.json), so no {which!r}")
    if (path / "cell.json").is_file():
        return read_one_cell(path.resolve(), selection)
    if any(path.rglob("samples_*.jsonl*")):
        return read_samples_folder(path, selection)
    if any(path.glob("*.eval")):
        raise UserError(f"{path}: holds Inspect logs; name one of them")
    raise UserError(
        f"{path}: neither a finished run nor a cell, and no samples of lm-eval in it; run lm-eval "
        "with --log_samples"
    )
