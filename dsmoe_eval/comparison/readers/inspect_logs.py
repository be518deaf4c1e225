"""Inspect's logs, `.eval` and `.json`, read by Inspect."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...errors import UserError
from ...tasks.items import digest, wording_of
from ..settings import Settings, generation
from .files import MOST_BYTES, by_library, check_file
from .results import Measures, Results, Selection, finish, first_few

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.scorer import Score

_GRADES = {"C", "P", "I", "N"}
"""Correct, partly correct, incorrect, no answer."""
_WORDS = {"yes", "no", "true", "false"}
"""Words that Inspect's `value_to_float` takes as 1 and 0; it takes unknown words as 0."""
_LARGEST_JSON = 2 * 2**30
_GENERATION = (
    "temperature", "top_p", "top_k", "max_tokens", "stop_seqs", "frequency_penalty",
    "presence_penalty", "num_choices", "best_of", "reasoning_effort", "reasoning_tokens",
    "system_message",
)  # fmt: skip
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
                raise UserError(
                    f"{path}: {damaged} is damaged (wrong checksum); copy or write the log again"
                )

    by_library(path, check)


def _results(path: Path, log: EvalLog, selection: Selection) -> Results:
    task = str(log.eval.task)
    if selection.task not in (None, task):
        raise UserError(
            f"{path}: is of task {task!r}, not {selection.task!r}; name a log of that task, or "
            "leave out --task"
        )
    samples = log.samples or []
    scored = [sample for sample in samples if sample.scores]
    scorer, key = _scorer(path, scored, selection.metric or selection.score)
    rows, unscored = (
        [],
        [_row_id(path, sample, selection) for sample in samples if not sample.scores],
    )
    for sample in scored:
        value = _value(path, sample, scorer, key)
        if math.isnan(value):  # Inspect's mark of what could not be scored
            unscored.append(_row_id(path, sample, selection))
        else:
            rows.append(_row(path, sample, task, selection) | {"score": value})
    measures: Measures = {task: (scorer if key is None else f"{scorer}/{key}", None)}
    steps = [[step.solver, step.params] for step in log.plan.steps]
    return finish(
        str(path), pd.DataFrame(rows), measures,
        {"solver": json.dumps(steps, default=str, sort_keys=True)},
        _notes(log, unscored), [(task, name) for name in unscored], {task: _settings(log)},
        repeats="or name another --id where they are different items",
    )  # fmt: skip


def _notes(log: EvalLog, unscored: Sequence[str]) -> list[str]:
    notes = [] if log.status == "success" else [f"the log's status is {log.status}"]
    requested = log.eval.dataset.sample_ids
    epochs = log.eval.config.epochs or 1
    samples = len(log.samples or [])
    if requested is not None and samples < len(requested) * epochs:
        notes.append(f"{samples} of {len(requested) * epochs} samples are in the log")
    if unscored:
        notes.append(f"{len(unscored)} sample(s) without a score: {first_few(unscored)}")
    return notes


def _settings(log: EvalLog) -> Settings:
    """Return the settings of generation, and the limit and epochs of the evaluation."""
    given = log.eval.model_generate_config.model_dump(exclude_none=True)
    given |= log.plan.config.model_dump(exclude_none=True)
    config = log.eval.config
    recorded = {name: given[name] for name in _GENERATION if name in given}
    # Inspect leaves decoding to the provider unless a temperature is set.
    unset = {} if "temperature" in recorded else {"decoding": "the provider's default"}
    return {
        "generation": {**generation(recorded), **unset},
        "limit": {} if config.limit is None else {"limit": str(config.limit)},
        "epochs": {"epochs": str(config.epochs or 1)},
    }


def _scorer(
    path: Path, samples: Sequence[EvalSample], requested: str | None
) -> tuple[str, str | None]:
    """Return the scorer, and the key of its value where that is a dictionary."""
    names: dict[str, tuple[str, str | None]] = {}
    for sample in samples:
        for name, score in (sample.scores or {}).items():
            if isinstance(score.value, Mapping):
                names |= {f"{name}/{key}": (name, str(key)) for key in score.value}
            else:
                names[name] = (name, None)
    if not names:
        raise UserError(f"{path}: no sample has a score; score it first: inspect score")
    if requested is None and len(names) > 1:
        raise UserError(f"{path}: several scores; choose one: --metric {' or '.join(names)}")
    if requested is None:
        return next(iter(names.values()))
    if requested not in names:
        raise UserError(
            f"{path}: no score {requested!r}; name one of {first_few(names)} with --metric"
        )
    return names[requested]


def _value(path: Path, sample: EvalSample, scorer: str, key: str | None) -> float:
    """Return the score as Inspect itself counts it; NaN where the scorer left it out."""
    score: Score | None = (sample.scores or {}).get(scorer)
    value: object = None if score is None else score.value
    if key is not None:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, str):
        raise UserError(
            f"{path}: sample {sample.id!r} has a score that is not a number; name another --metric"
        )
    return _value_of_text(path, sample, value)


def _value_of_text(path: Path, sample: EvalSample, value: str) -> float:
    from inspect_ai.scorer import value_to_float

    if value.lower() == "nan":
        return math.nan
    if value not in _GRADES and value.lower() not in _WORDS:
        try:
            known = math.isfinite(float(value))
        except ValueError:
            known = False
        if not known:
            raise UserError(
                f"{path}: sample {sample.id!r} is scored {value[:40]!r}, which is not C, P, I, N, "
                "yes, no, true, false or a number; name another --metric, or score it again"
            )
    return float(value_to_float()(value))


def _row_id(path: Path, sample: EvalSample, selection: Selection) -> str:
    return _column(path, sample, selection.id, str(sample.id))


def _column(path: Path, sample: EvalSample, name: str | None, default: object) -> str:
    if name is None:
        return str(default)
    known = {**(sample.metadata or {}), "id": str(sample.id), "item": str(sample.id)}
    if known.get(name) is None:
        raise UserError(
            f"{path}: sample {sample.id!r} has no {name!r} in its metadata; name one of "
            f"{', '.join(map(str, known))}"
        )
    return str(known[name])


def _row(path: Path, sample: EvalSample, task: str, selection: Selection) -> dict[str, object]:
    question = sample.input
    if not isinstance(question, str):
        question = json.dumps([[m.role, m.text] for m in question], ensure_ascii=False)
    options = list(sample.choices or [])
    gold = _gold(sample.target, options)
    domain = (sample.metadata or {}).get("domain", task)
    return {
        "task": task,
        "id": _row_id(path, sample, selection),
        "content": digest(question, options, gold),
        "question": digest(question, options),
        "gold": gold,
        "document": None,
        "cluster": _column(path, sample, selection.cluster, wording_of(question)),
        "domain": _column(path, sample, selection.domain, domain),
        "sample": str(sample.epoch),
    }


def _gold(target: str | Sequence[str], options: Sequence[str]) -> str:
    """Return the right answer; of choices the texts that the letters name."""
    targets = [target] if isinstance(target, str) else list(target)
    if options and all(len(t) == 1 and 0 <= ord(t) - ord("A") < len(options) for t in targets):
        targets = [options[ord(t) - ord("A")] for t in targets]
    return str(targets[0]) if len(targets) == 1 else json.dumps(targets, ensure_ascii=False)
