"""What comparing two results costs: a million rows from files, and many pairs of one table.

    python benchmarks/speed/compare.py [--rows 1000000] [--table FILE --items FILE] [--json]

The first figure is of two Parquet tables and of two CSV tables of so many rows, 14 domains and
every tenth item in a pair, from start of reading to the end; peak memory is the process's. With
`--table`, a wide table of answers with columns question_id, category, gold and one for each model,
all pairs of its models are compared; `--items` holds the questions, by which items are clustered.
"""

from __future__ import annotations

import itertools
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from dsmoe_eval.comparison import Selection, compare, read_results


def write_tables(folder: Path, rows: int, suffix: str) -> tuple[Path, Path]:
    """Two tables of 0 and 1 on the same items, in two orders."""
    draw = np.random.default_rng(0)
    number = np.arange(rows)
    items = pd.DataFrame(
        {
            "item": [f"item-{n:07d}" for n in number],
            "domain": [f"domain {n % 14}" for n in number // 20],
            "cluster": np.where(number % 20 == 1, number - 1, number),
        }
    )
    paths = []
    for name, right in (("a", 0.5), ("b", 0.51)):
        table = items.assign(score=(draw.random(rows) < right).astype(int)).sample(frac=1.0)
        path = folder / f"{name}{suffix}"
        if suffix == ".parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False)
        paths.append(path)
    return paths[0], paths[1]


def compare_files(rows: int) -> dict[str, float]:
    """Seconds to compare two tables of so many rows, by format."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".parquet", ".csv"):
            a, b = write_tables(Path(folder), rows, suffix)
            start = time.perf_counter()
            compare(a, b)
            seconds[suffix] = time.perf_counter() - start
    return seconds


def compare_all(table: Path, items: Path | None) -> dict[str, float]:
    """Seconds to compare all pairs of models, and how many there are."""
    selection = Selection(
        id="question_id", gold="gold", domain="category", missing_value="MISSING",
        cluster="question" if items else None, items=items,
    )  # fmt: skip
    known = {"question_id", "category", "n_options", "gold"}
    names = [name for name in pd.read_csv(table, nrows=0) if name not in known]
    start = time.perf_counter()
    results = [read_results(f"{table}:{name}", selection) for name in names]
    read = time.perf_counter() - start
    pairs = list(itertools.combinations(results, 2))
    for a, b in pairs:
        compare(a, b, selection)
    return {"pairs": len(pairs), "read": read, "all": time.perf_counter() - start}


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--table", type=click.Path(exists=True, path_type=Path))
@click.option("--items", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def main(rows: int, table: Path | None, items: Path | None, as_json: bool) -> None:
    """Measure and print."""
    found: dict[str, Any] = {"rows": rows, "seconds": compare_files(rows)}
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if table is not None:
        found["table"] = compare_all(table, items)
    if as_json:
        click.echo(json.dumps(found))
        return
    for suffix, seconds in found["seconds"].items():
        click.echo(f"{rows:,} rows of {suffix}: {seconds:.1f} s")
    click.echo(f"peak memory: {found['peak_gib']:.2f} GiB (the tables' making included)")
    if table is not None:
        click.echo(
            "{pairs} pairs: {all:.1f} s, of which reading {read:.1f} s".format(**found["table"])
        )


if __name__ == "__main__":
    main()
