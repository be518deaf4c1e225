"""Results of this program: one cell, or all cells of a variant in a run's folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ...errors import UserError
from ...results.cells import read_cell, read_samples
from ...results.finished import FinishedRun, read_finished
from ...results.folder import RunFolder
from ...tasks.items import digest
from .likelihoods import BITS, GOLD_METRICS
from .results import Results, Selection, finish, first_few

_NEEDED = {"item", "task", "domain", "question", "gold", "score"}


def read_one_cell(folder: Path, selection: Selection) -> Results:
    """Read a cell by its folder, `RUN/cells/<id>`."""
    return _read(str(folder), RunFolder(folder.parent.parent), [folder.name], selection)


def read_run(root: Path, which: str | None, selection: Selection) -> Results:
    """Read a variant of a run.

    Args:
        root: the run's folder.
        which: `base`, `<variant>`, or `<variant>:<target>` if the variant has several targets.
        selection: the task, if only one is to be read.

    Raises:
        UserError: the run is not finished or damaged, has no such variant, or `which` fits several.
    """
    run = read_finished(root)
    found = _text_cells(run) if selection.metric == BITS else _cells(run)
    if which is None:
        raise UserError(f"{root}: a run; name what to compare: {root}:base, {first_few(found)}")
    named = [name for name in found if which in (name, name.partition(":")[0])]
    if len(named) != 1:
        problem = "has several targets" if named else "was not run"
        raise UserError(f"{root}: {which!r} {problem}; there are {', '.join(named or found)}")
    return _read(f"{root}:{which}", RunFolder(root), found[named[0]], selection)


def _cells(run: FinishedRun) -> dict[str, list[str]]:
    found = {"base": [row.cell for row in run.result.base]}
    return found | {":".join(key): list(arm.cells.values()) for key, arm in run.arms.items()}


def _text_cells(run: FinishedRun) -> dict[str, list[str]]:
    """Return the cells of texts, of base and of every arm."""
    read = {key: arm.outcome(BITS) for key, arm in run.arms.items()}
    tasks = {key: one.tasks for key, one in read.items() if one is not None}
    base = dict.fromkeys(task.cells[0] for own in tasks.values() for task in own)
    found = {":".join(key): [task.cells[1] for task in own] for key, own in tasks.items()}
    if not found:
        raise UserError(
            f"{run.name}: no task of its suite has the role text, so it has no {BITS}; name "
            "another --metric"
        )
    return {"base": list(base)} | found


def _read(source: str, folder: RunFolder, cells: Iterable[str], selection: Selection) -> Results:
    notes: list[str] = []
    tables, measures, prompts, settings = [], {}, {}, {}
    for cell in dict.fromkeys(cells):
        about = read_cell(folder, cell)
        identity = about["identity"]
        task = str(identity["task"])
        if selection.task not in (None, task):
            continue
        rows = read_samples(folder, cell)
        if "loglikelihood" in rows and selection.metric != BITS:
            raise UserError(f"{folder.cell(cell)}: a cell of texts; compare it by --metric {BITS}")
        rows, metric = _by_outcome(rows, selection.metric, _text(identity.get("metric")))
        if rows["score"].isna().all():
            notes.append(f"task {task} has no {selection.metric}; it is left out")
            continue
        if lacks := sorted(_NEEDED - set(rows)):
            raise UserError(f"{folder.cell(cell)}: samples lack {first_few(lacks)}; run it again")
        if len(rows) != about.get("items"):
            raise UserError(
                f"{folder.cell(cell)}: holds {len(rows)} of {about.get('items')} items; delete it "
                "and run again"
            )
        tables.append(_table(rows, selection, folder.cell(cell)))
        measures[task] = (metric, _text(identity.get("filter")))
        if "decoding" in identity:
            names = ("decoding", "answer_tokens")
            recorded = {n: str(identity[n]) for n in names if identity.get(n) is not None}
            settings[task] = {"generation": recorded}
        prompts[f"{task}: prompt"] = (
            f"{identity.get('prompt_format')}, {identity.get('few_shot', 0)} examples"
        )
    if not tables:
        if notes:
            raise UserError(f"{source}: {notes[0]}; name another --metric")
        raise UserError(f"{source}: no task {selection.task!r} in it")
    return finish(
        source, pd.concat(tables, ignore_index=True), measures, prompts, notes, settings=settings
    )


def _by_outcome(
    rows: pd.DataFrame, wanted: str | None, metric: str | None
) -> tuple[pd.DataFrame, str | None]:
    """Return a cell's rows with the selected outcome as their score, and its name."""
    if wanted == BITS and "loglikelihood" not in rows:
        return rows.assign(score=math.nan), metric
    if wanted == BITS:
        bits = -rows["loglikelihood"] / math.log(2)
        return rows.assign(score=bits, size=rows["bytes"], gold=""), BITS
    if wanted not in GOLD_METRICS:
        return rows, metric
    name = "gold_logprob_norm" if metric == "acc_norm" else "gold_logprob"
    known = rows["gold_logprob"] if name == wanted and "gold_logprob" in rows else math.nan
    return rows.assign(score=known), name


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _table(rows: pd.DataFrame, selection: Selection, cell: Path) -> pd.DataFrame:
    options = [list(map(str, o)) if o is not None else [] for o in rows.get("options", [])]
    options = options or [[] for _ in range(len(rows))]
    names = {"id": selection.id, "domain": selection.domain, "cluster": selection.cluster}
    names |= {"score": selection.score}
    named = {ours: str(theirs) for ours, theirs in names.items() if theirs not in (None, "id")}
    if lacks := sorted(set(named.values()) - set(rows)):
        raise UserError(f"{cell}: no column {lacks[0]!r}; there are {', '.join(map(str, rows))}")
    cluster = rows["cluster"] if "cluster" in rows else rows["item"].str.partition("~")[0]
    table = pd.DataFrame(
        {
            "task": rows["task"],
            "id": rows["item"],
            "content": rows["item"].str.partition("~")[0],
            "question": [digest(*pair) for pair in zip(rows["question"], options, strict=True)],
            "gold": rows["gold"],
            "cluster": cluster,
            "domain": rows["domain"],
            "score": rows["score"],
        }
    )
    if "size" in rows:
        table = table.assign(size=rows["size"])
    return table.assign(**{ours: rows[theirs] for ours, theirs in named.items()})
