"""What every reader makes: one row an item, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...errors import UserError

COLUMNS = (
    "task", "id", "content", "question", "gold", "document", "cluster", "domain", "score", "sample",
)  # fmt: skip
"""Columns of a reader's rows. All but `score` are strings, None where not known:

`id` is the source's own name of the item; `content` hashes question, options and gold,
`question` the first two, `gold` the last, `document` all that the source knows of the item;
`sample` tells several declared samples of one item apart.
"""
Measures = dict[str, tuple[str | None, str | None]]
"""Task -> metric and filter, None where the source does not say."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """What to read of a source; None stands for what its format says.

    Attributes:
        id: column that names an item; items are then paired by it, not by content.
        score: column of the scores, more is better; with `gold` of the answers.
        gold: column of right answers; an answer scores 1 where it equals it, else 0.
        domain: column of the domain.
        cluster: column whose value items share that may share luck.
        sample: column that tells several samples of one item apart.
        task: the only task to read.
        metric: the metric, where there are several; of an Inspect log the scorer.
        filter: lm-eval's filter, where there are several.
        absent: a score or answer that says that the item was not asked.
        items: a table with more columns of the items, joined by `id`.
    """

    id: str | None = None
    score: str | None = None
    gold: str | None = None
    domain: str | None = None
    cluster: str | None = None
    sample: str | None = None
    task: str | None = None
    metric: str | None = None
    filter: str | None = None
    absent: str | None = None
    items: Path | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """One system's scores, item by item.

    Attributes:
        source: what the user called it.
        table: columns `COLUMNS` without `sample`; one row an item, scores finite.
        measures: task -> (metric, filter), None where the source does not say.
        prompts: how items were put to the model, where content does not show it; name -> value.
        notes: what the user should know of the reading.
        unscored: ids of items that stand in the source without a score.
    """

    source: str
    table: pd.DataFrame
    measures: Measures
    prompts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()


def first_few(names: Iterable[Any]) -> str:
    """The first names, quoted, and how many more."""
    listed = [str(name) for name in names]
    shown = ", ".join(repr(name) for name in listed[:_SHOWN])
    return shown + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


def finish(
    source: str,
    rows: pd.DataFrame,
    measures: Measures,
    prompts: dict[str, str] | None = None,
    notes: Sequence[str] = (),
    unscored: Sequence[str] = (),
) -> Results:
    """Check a reader's rows; several declared samples of an item become their mean.

    Args:
        source: what the user called it.
        rows: columns `COLUMNS`, those that are not known may be absent; at least `id`.
        measures: as `Results.measures`.
        prompts: as `Results.prompts`.
        notes: as `Results.notes`.
        unscored: as `Results.unscored`.

    Raises:
        UserError: there is no row, a score is not finite, or an item stands there twice that is
            not declared to be several samples.
    """
    if rows.empty:
        raise UserError(f"{source}: there is no scored item in it")
    missing = {name: None for name in COLUMNS if name not in rows}
    rows = rows.assign(**missing)[list(COLUMNS)]
    finite = np.isfinite(rows["score"].to_numpy(dtype=np.float64))
    if not finite.all():
        raise UserError(
            f"{source}: {int((~finite).sum())} score(s) are not finite, first that of item "
            f"{rows['id'][~finite].iloc[0]!r}; drop such rows on purpose, or score them"
        )
    rows, more = _item_means(source, rows)
    return Results(
        source, rows, measures, prompts or {}, (*notes, *more), tuple(map(str, unscored))
    )


def _item_means(source: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One row an item."""
    keys = ["id"] if rows["task"].isna().all() else ["task", "id"]
    sampled = bool(rows["sample"].notna().any())
    twice = rows.duplicated([*keys, "sample"] if sampled else keys, keep=False)
    if twice.any():
        first = rows[twice].iloc[0]
        same = (rows[keys] == first[keys]).all(axis=1).to_numpy().nonzero()[0][:2] + 1
        raise UserError(
            f"{source}: item {first['id']!r} stands there twice (rows {same[0]} and {same[1]}), "
            f"{int(twice.sum())} such rows in all; remove the copies, or name the column that "
            "tells samples of one item apart: --sample COLUMN"
        )
    if not sampled:
        return rows.drop(columns="sample"), []
    groups = rows.groupby(keys, sort=False, dropna=False)
    for name in ("content", "cluster", "domain"):
        differing = groups[name].nunique()
        if (differing > 1).any():
            raise UserError(
                f"{source}: samples of item {differing.idxmax()!r} differ in {name}, so they are "
                "not of one item; name another --id"
            )
    counts = groups.size()
    means = groups.first().assign(score=groups["score"].mean()).reset_index()
    few, many = int(counts.min()), int(counts.max())
    notes = [f"{few} to {many} samples an item, not all the same"] if few < many else []
    columns = [name for name in COLUMNS if name != "sample"]
    return means.assign(**{k: None for k in columns if k not in means})[columns], notes
