"""A run's items as scripts beside its page: questions, gold and every variant's answers.

A page opened from disk may not read other files, but it may run a script from its folder. Such a
script is one call, `dsmoeItems("<its name>", {...}, "<SHA-256 of {...}>");`. Generated text is
long and has separate files, in parts of some items each, since the page needs only the items that
the reader opens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from ..errors import UserError
from ..files import write_text
from ..results import RunFolder
from ..results.arms import Arm
from ..results.cells import GENERATED, read_samples
from ..results.schema import Base
from ..variants import BASE
from .page import ItemFile

PART_CHARACTERS = 2_000_000
"""The characters of generated text at which a part ends, with the item that reaches them."""
_QUESTIONS = ("item", "question", "options", "gold")
_ANSWERS = ("item", "answer", "score", *GENERATED)


@dataclass(frozen=True, slots=True)
class _Answers:
    """The answers of all variants to one task; the rows of each are in the order of `items`."""

    items: pd.DataFrame
    arms: tuple[str, ...]
    cells: tuple[str, ...]
    rows: tuple[pd.DataFrame, ...]


def write_item_files(
    folder: RunFolder, base: Sequence[Base], arms: Sequence[Arm], to: Path, name: str
) -> tuple[ItemFile, ...]:
    """Write the items of every task of a run.

    Args:
        folder: the run's folder, with its cells.
        base: the run's tasks, with base's cells.
        arms: the run's arms, with their cells.
        to: the page's folder; the files go to `items/` in it.
        name: the page's name for the run, such as its model; two runs on one page need two names.

    Returns:
        One file per task, in the order of the run's base.

    Raises:
        UserError: a cell is missing or damaged, or has other items than base's.
    """
    return tuple(_write_task(folder, row, arms, to, name) for row in base)


def clear_items(to: Path) -> None:
    """Remove the items of an earlier page in this folder, also those of tasks that are gone."""
    for path in (to / "items").glob("*.js"):
        path.unlink()


def _write_task(
    folder: RunFolder, base: Base, arms: Sequence[Arm], to: Path, name: str
) -> ItemFile:
    answers = _read_task(folder, base, arms)
    key = _key(name, base.task)
    parts = [] if answers.items["options"].str.len().all() else list(_parts(answers))
    shas = [_write(to, f"{key}-{number}", part) for number, part in enumerate(parts)]
    index = _index(answers) | {"starts": [part["start"] for part in parts], "parts": shas}
    return ItemFile(
        path=f"items/{key}.js",
        set=name,
        task=base.task,
        domain=base.domain,
        n=len(answers.items),
        arms=answers.arms,
        sha256=_write(to, key, index),
    )


def _key(own: str, task: str) -> str:
    """Return a file name that is safe for all names, and unique per run and task."""
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", task)[:60]
    return f"{readable}-{hashlib.sha256(json.dumps([own, task]).encode()).hexdigest()[:12]}"


def _write(to: Path, key: str, payload: Mapping[str, object]) -> str:
    text = json.dumps(payload, allow_nan=False, separators=(",", ":"))  # ASCII, so no U+2028
    text = text.replace("<", "\\u003c")  # only in strings; a script must not contain </script>
    sha = hashlib.sha256(text.encode()).hexdigest()
    write_text(to / "items" / f"{key}.js", f'dsmoeItems("{key}",{text},"{sha}");\n')
    return sha


def _read_task(folder: RunFolder, base: Base, arms: Sequence[Arm]) -> _Answers:
    task = base.task
    named = {BASE: base.cell} | {
        f"{arm.variant} on {arm.target}": arm.cells[task] for arm in arms if task in arm.cells
    }
    items = read_samples(folder, base.cell, _QUESTIONS)
    cells = dict.fromkeys(named.values())  # two arms may share a cell
    read = {cell: _aligned(folder, cell, items["item"], task) for cell in cells}
    rows = tuple(read[cell] for cell in named.values())
    return _Answers(items, tuple(named), tuple(named.values()), rows)


def _aligned(folder: RunFolder, cell: str, items: pd.Series[str], task: str) -> pd.DataFrame:
    rows = read_samples(folder, cell, _ANSWERS).set_index("item")
    if not rows.index.is_unique or set(rows.index) != set(items):
        raise UserError(f"task {task!r}: cell {cell} holds other items than base's; run it again")
    return rows.reindex(items)


def _index(answers: _Answers) -> dict[str, object]:
    items = answers.items
    options = [own.tolist() for own in items["options"]]
    gold = [_place(own, right) for own, right in zip(options, items["gold"], strict=True)]
    cells = dict(zip(answers.cells, answers.rows, strict=True))  # arms may share cells
    codes = _codes(cells, options)
    scores = {cell: _short(rows["score"]) for cell, rows in cells.items()}
    return {
        "ids": items["item"].to_list(),
        "question": items["question"].to_list(),
        "options": options,
        "gold": [
            right if place < 0 else place for place, right in zip(gold, items["gold"], strict=True)
        ],
        "arms": answers.arms,
        "cells": answers.cells,
        "scores": [scores[cell] for cell in answers.cells],
        "answers": [codes[cell] for cell in answers.cells],
    }


def _codes(cells: Mapping[str, pd.DataFrame], options: list[list[str]]) -> dict[str, list[int]]:
    """Turn answers into numbers: equal answers get equal numbers.

    An answer that is an option gets the option's index. Without options, the numbers count the
    extracted answers.
    """
    texts = [rows["answer"].to_list() for rows in cells.values()]
    if not any(options):
        codes, _ = pd.factorize(pd.Series(list(chain.from_iterable(texts)), dtype=object))
        found = codes.reshape(len(texts), -1).tolist()
    else:
        # If two options have the same text, the index of the first is used, as in `_place`.
        places = [{text: at for at, text in reversed(list(enumerate(own)))} for own in options]
        found = [
            [own.get(text, -1) for own, text in zip(places, arm, strict=True)] for arm in texts
        ]
    return dict(zip(cells, found, strict=True))


def _place(options: Sequence[str], text: str) -> int:
    return options.index(text) if text in options else -1


def _short(scores: pd.Series[float]) -> list[float]:
    """Return whole numbers without their `.0`."""
    values = scores.to_numpy()
    return (values.astype(int) if (values == values.round()).all() else values).tolist()


def _parts(answers: _Answers) -> Iterator[dict[str, object]]:
    """Yield generated text, a few items at a time: [arm][item][sample], `answer` [arm][item]."""
    columns = {
        name: [[own.tolist() for own in rows[name]] for rows in answers.rows] for name in GENERATED
    }
    extracted = [rows["answer"].to_list() for rows in answers.rows]
    sizes = [sum(map(len, chain.from_iterable(own))) for own in zip(*columns["texts"], strict=True)]
    ends = _ends(sizes)
    for start, end in zip([0, *ends], ends, strict=False):
        part = {name: [arm[start:end] for arm in values] for name, values in columns.items()}
        yield {"start": start, "answer": [arm[start:end] for arm in extracted]} | part


def _ends(sizes: Sequence[int]) -> list[int]:
    """Return the ends of the parts: after each item that fills a part, and after the last item."""
    ends, filled = [], 0
    for place, size in enumerate(sizes, 1):
        filled += size
        if filled >= PART_CHARACTERS or place == len(sizes):
            ends.append(place)
            filled = 0
    return ends
