"""What every reader returns: one row per item, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import UserError
from ..settings import Settings
from .answers import Match

COLUMNS = (
    "task", "id", "content", "question", "gold", "document", "cluster", "domain", "score", "size",
    "sample",
)  # fmt: skip
"""Columns of a reader's rows. All but `score` and `size` are strings, None where not known:

`id` is the source's name of the item; `content` hashes question, options and gold, `question` the
first two, `gold` the last, `document` all that the source knows of the item; `sample`
distinguishes several declared samples of one item. `size` is the number of bytes by which a sum of
scores is divided, of a text; None of a question.
"""
Measures = dict[str, tuple[str | None, str | None]]
"""Task -> metric and filter, None where the source does not say."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """The parts of a source to read; None leaves the choice to the source's format.

    Attributes:
        id: the column that names an item; items are then paired by it, not by content.
        score: the column of the scores, more is better; with `gold` of the answers.
        gold: the column of right answers; an answer that matches scores 1, any other 0.
        domain: the column of the domain.
        cluster: the column whose value is shared by items that are not independent.
        sample: the column that distinguishes several samples of one item.
        task: the only task to read.
        metric: the metric, if there are several; in an Inspect log the scorer.
        filter: lm-eval's filter, if there are several: its name, or its number from 1 where the
            samples do not name it.
        missing_value: the score or answer of an item that was not put to the model; "" is an
            empty one.
        no_missing_value: answers such as "None" and "N/A" are answers, and no item is missing.
        match: how answers match `gold`, see `answers.MATCHES`; None is `exact`.
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
    missing_value: str | None = None
    no_missing_value: bool = False
    match: Match | None = None
    items: Path | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """One system's scores, item by item.

    Attributes:
        source: the name of the source, as the user gave it.
        table: columns `COLUMNS` without `sample`; one row per item, scores finite.
        measures: task -> (metric, filter), None where the source does not say.
        prompts: how items were put to the model, where content does not show it; name -> value.
        settings: task -> the settings of the evaluation that the source records.
        notes: what the user should know of the reading.
        unscored: ids of the items of which no sample has a score.
        id_name: the column that names items, as `Selection.id` takes it.
    """

    source: str
    table: pd.DataFrame
    measures: Measures
    prompts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Settings] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()
    id_name: str = "id"


def first_few(names: Iterable[object]) -> str:
    """Return the first names, quoted, and how many more there are."""
    listed = [str(name) for name in names]
    shown = ", ".join(repr(name) for name in listed[:_SHOWN])
    return shown + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


def finish(
    source: str,
    rows: pd.DataFrame,
    measures: Measures,
    prompts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    unscored: Sequence[tuple[str | None, str]] = (),
    settings: Mapping[str, Settings] | None = None,
    id_name: str = "id",
    repeats: str = "or name the column that tells samples of one item apart: --sample COLUMN",
) -> Results:
    """Check a reader's rows, and replace several declared samples of an item by their mean.

    Args:
        source: the name of the source, as the user gave it.
        rows: columns `COLUMNS`; those that are not known may be absent, except `id`.
        measures: as `Results.measures`.
        prompts: as `Results.prompts`.
        notes: as `Results.notes`.
        unscored: task and id of each sample without a score. An item of which another sample has a
            score is not unscored: its mean is that of the others.
        settings: as `Results.settings`.
        id_name: as `Results.id_name`.
        repeats: the way out for two rows of one item that are no copies.

    Raises:
        UserError: there is no row, a score is not finite, or an item has two rows that are not
            declared to be several samples.
    """
    if rows.empty:
        raise UserError(f"{source}: there is no scored item in it; score it, or name another file")
    missing = {name: None for name in COLUMNS if name not in rows}
    rows = rows.assign(**missing)[list(COLUMNS)]
    finite = np.isfinite(rows["score"].to_numpy(dtype=np.float64))
    if not finite.all():
        raise UserError(
            f"{source}: {int((~finite).sum())} score(s) are not finite, first that of item "
            f"{rows['id'][~finite].iloc[0]!r}; score these items, or remove their rows"
        )
    rows, more = _item_means(source, rows, repeats)
    alone, partly = _without_any_score(rows, unscored)
    return Results(
        source, rows, measures, prompts or {}, settings or {}, (*notes, *more, *partly), alone,
        id_name,
    )  # fmt: skip


def _without_any_score(
    rows: pd.DataFrame, unscored: Sequence[tuple[str | None, str]]
) -> tuple[tuple[str, ...], list[str]]:
    """Return the items without any score, and a note on those that lack some."""
    if not unscored:
        return (), []
    scored = set(zip(rows["task"], rows["id"], strict=True))
    partly = [item for item in unscored if item in scored]
    alone = tuple(str(item[1]) for item in dict.fromkeys(unscored) if item not in scored)
    if not partly:
        return alone, []
    items = first_few(dict.fromkeys(item[1] for item in partly))
    return alone, [
        f"{len(partly)} sample(s) without a score are left out of their items' means: {items}"
    ]


def _item_means(source: str, rows: pd.DataFrame, repeats: str) -> tuple[pd.DataFrame, list[str]]:
    """Return one row per item."""
    keys = ["id"] if rows["task"].isna().all() else ["task", "id"]
    sampled = bool(rows["sample"].notna().any())
    twice = rows.duplicated([*keys, "sample"] if sampled else keys, keep=False)
    if twice.any():
        first = rows[twice].iloc[0]
        same = (rows[keys] == first[keys]).all(axis=1).to_numpy().nonzero()[0][:2] + 1
        raise UserError(
            f"{source}: two rows (rows {same[0]} and {same[1]}) for item {first['id']!r}, "
            f"{int(twice.sum())} such rows in all; remove the copies, {repeats}"
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
    notes = [f"{few} to {many} samples per item, not all the same"] if few < many else []
    columns = [name for name in COLUMNS if name != "sample"]
    return means.assign(**{k: None for k in columns if k not in means})[columns], notes
