"""Inspect's logs, `.eval` and `.json`, by its own reader."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import UserError
from ...tasks.items import digest, wording_of
from .files import MOST_BYTES, by_library, check_file
from .results import Measures, Results, Selection, finish, first_few

_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Correct, partly, incorrect, no answer: Inspect's `value_to_float`."""
_LARGEST_JSON = 2 * 2**30
_NOT_NEEDED = {"events", "store", "messages", "output", "model_usage", "role_usage"}


def read_inspect(path: Path, selection: Selection) -> Results:
    """Read an Inspect log; epochs are samples of an item, and samples without a score are counted.

    Raises:
        UserError: Inspect is not installed, the log is damaged, or its scorer is left open.
    """
    check_file(path)
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise UserError(
            f"{path}: Inspect is not installed; pip install 'dsmoe-eval[inspect]'"
        ) from error
    if path.suffix == ".eval":
        _check_zip(path)
    elif path.stat().st_size > _LARGEST_JSON:
        raise UserError(f"{path}: more than 2 GiB of JSON; convert it: inspect log convert")
    log = by_library(
        path,
        lambda: read_eval_log(
            str(path), resolve_attachments="core",
            exclude_fields=_NOT_NEEDED if path.suffix == ".eval" else None,
        ),
    )  # fmt: skip
    return by_library(path, lambda: _results(path, log, selection))


def _check_zip(path: Path) -> None:
    """Refuse archives that unpack to too much, hold one name twice, or have wrong checksums."""

    def check() -> None:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise UserError(f"{path}: unpacks to more than 8 GiB; split it by task")
            names = archive.namelist()
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"{path}: holds {first_few(twice)} twice; write the log again")
            try:
                damaged = archive.testzip()
            except NotImplementedError:  # zstd, whose frames Inspect's reader checks
                return
            if damaged:
                raise UserError(f"{path}: {damaged} is damaged (wrong checksum)")

    by_library(path, check)


def _results(path: Path, log: Any, selection: Selection) -> Results:
    task = str(log.eval.task)
    if selection.task not in (None, task):
        raise UserError(f"{path}: is of task {task!r}, not {selection.task!r}")
    samples = log.samples or []
    scored = [sample for sample in samples if sample.scores]
    unscored = [f"{s.id}" for s in samples if not s.scores]
    scorer, key = _scorer(path, scored, selection.metric or selection.score)
    rows = []
    for sample in scored:
        value = _value(path, sample, scorer, key)
        if math.isnan(value):  # Inspect's mark of what could not be scored
            unscored.append(str(sample.id))
        else:
            rows.append(_row(path, sample, task, selection) | {"score": value})
    notes = [] if log.status == "success" else [f"the log's status is {log.status}"]
    asked = log.eval.dataset.sample_ids
    epochs = log.eval.config.epochs or 1
    if asked is not None and len(samples) < len(asked) * epochs:
        notes.append(f"{len(samples)} of {len(asked) * epochs} samples are in the log")
    if unscored:
        notes.append(f"{len(unscored)} sample(s) without a score: {first_few(unscored)}")
    measures: Measures = {task: (scorer if key is None else f"{scorer}/{key}", None)}
    steps = [[step.solver, step.params] for step in log.plan.steps]
    prompts = {"solver": json.dumps(steps, default=str, sort_keys=True)}
    return finish(str(path), pd.DataFrame(rows), measures, prompts, notes, unscored)


def _scorer(path: Path, samples: list[Any], asked: str | None) -> tuple[str, str | None]:
    """The scorer, and the key of its value where that is a dictionary."""
    found: dict[str, tuple[str, str | None]] = {}
    for sample in samples:
        for name, score in sample.scores.items():
            if isinstance(score.value, Mapping):
                found |= {f"{name}/{key}": (name, str(key)) for key in score.value}
            else:
                found[name] = (name, None)
    if not found:
        raise UserError(f"{path}: no sample has a score; score it first: inspect score")
    if asked is None and len(found) > 1:
        raise UserError(f"{path}: several scores; choose one: --metric {' or '.join(found)}")
    if asked is None:
        return next(iter(found.values()))
    if asked not in found:
        raise UserError(f"{path}: no score {asked!r}; there are {first_few(found)}")
    return found[asked]


def _value(path: Path, sample: Any, scorer: str, key: str | None) -> float:
    """The score as a number; NaN where the scorer left it out."""
    score = sample.scores.get(scorer)
    value = None if score is None else score.value
    if key is not None:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        return math.nan
    if isinstance(value, str):
        if value not in _GRADES:
            raise UserError(
                f"{path}: sample {sample.id!r} is scored {value[:40]!r}, not C, P, I, N or a number"
            )
        return _GRADES[value]
    if not isinstance(value, bool | int | float):
        raise UserError(f"{path}: sample {sample.id!r} has a score that is no number")
    return float(value)


def _row(path: Path, sample: Any, task: str, selection: Selection) -> dict[str, Any]:
    question = sample.input
    if not isinstance(question, str):
        question = json.dumps([[m.role, m.text] for m in sample.input], ensure_ascii=False)
    options = list(sample.choices or [])
    gold = _gold(sample.target, options)
    known = {**sample.metadata, "id": str(sample.id), "item": str(sample.id)}

    def column(name: str | None, default: Any) -> str:
        if name is None:
            return str(default)
        if known.get(name) is None:
            raise UserError(f"{path}: sample {sample.id!r} has no {name!r} in its metadata")
        return str(known[name])

    return {
        "task": task,
        "id": column(selection.id, sample.id),
        "content": digest(question, options, gold),
        "question": digest(question, options),
        "gold": gold,
        "document": None,
        "cluster": column(selection.cluster, wording_of(question)),
        "domain": column(selection.domain, sample.metadata.get("domain", task)),
        "sample": str(sample.epoch),
    }


def _gold(target: Any, options: list[str]) -> str:
    """The right answer; of choices the texts that the letters stand for."""
    targets = [target] if isinstance(target, str) else list(target)
    if options and all(len(t) == 1 and 0 <= ord(t) - ord("A") < len(options) for t in targets):
        targets = [options[ord(t) - ord("A")] for t in targets]
    return str(targets[0]) if len(targets) == 1 else json.dumps(targets, ensure_ascii=False)
