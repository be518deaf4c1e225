"""What lm-eval 0.4 leaves with `--log_samples`: `samples_<task>_<time>.jsonl`, and its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import UserError
from ...tasks.items import digest, quoted_stem, wording_of
from .files import json_lines, json_object
from .results import Measures, Results, Selection, finish, first_few

_FILE = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[^_]+)\.jsonl(\.gz)?$")
_KEYS = {"doc_id", "doc", "resps"}
_LESS_IS_BETTER = {"brier_score", "perplexity", "ter", "bits_per_byte", "byte_perplexity"}


def is_lm_eval(row: Mapping[str, Any]) -> bool:
    """Whether a row of JSONL is one of lm-eval's samples."""
    return set(row) >= _KEYS


def read_samples_folder(folder: Path, selection: Selection) -> Results:
    """Read an lm-eval results folder: of each task the newest samples.

    Raises:
        UserError: it holds no samples, those of several models, or damaged ones.
    """
    files = [path for path in sorted(folder.rglob("samples_*")) if _FILE.fullmatch(path.name)]
    models = sorted({path.parent for path in files})
    if len(models) > 1:
        raise UserError(f"{folder}: holds {len(models)} models' results; name one: {models[0]}")
    newest: dict[str, tuple[str, Path]] = {}
    for path in files:
        found = _named(path)
        newest[found[0]] = max(newest.get(found[0], ("", path)), (found[1], path))
    if selection.task is not None:
        if selection.task not in newest:
            raise UserError(f"{folder}: no task {selection.task!r}; there are {first_few(newest)}")
        newest = {selection.task: newest[selection.task]}
    notes = []
    read = {path for _, path in newest.values()}
    older = [path.name for path in files if _named(path)[0] in newest and path not in read]
    if older:
        times = ", ".join(f"{task} {time}" for task, (time, _) in sorted(newest.items()))
        notes.append(f"older samples left out: {first_few(older)}; read are {times}")
    return _read(
        str(folder), dict(sorted((t, p) for t, (_, p) in newest.items())), selection, notes
    )


def read_samples_file(path: Path, selection: Selection) -> Results:
    """Read one `samples_*.jsonl`.

    Raises:
        UserError: it is damaged, or its metric or filter is left open.
    """
    return _read(str(path), {_named(path)[0]: path}, selection, [])


def _named(path: Path) -> tuple[str, str]:
    """Task and time, by the file's name."""
    found = _FILE.fullmatch(path.name)
    if found is None:
        return path.name.removesuffix(".gz").removesuffix(".jsonl"), ""
    return found["task"], found["time"]


def _read(
    source: str, files: Mapping[str, Path], selection: Selection, notes: list[str]
) -> Results:
    rows: list[dict[str, Any]] = []
    measures: Measures = {}
    for task, path in files.items():
        reader = _Samples(path, task, selection)
        found = list(reader.rows())
        if not found:
            raise UserError(f"{path}: holds no sample{reader.of_filter()}")
        rows += found
        measures[task] = (reader.metric, reader.filter)
        notes += reader.notes
        notes += _cut_off(path, task, len({row["id"] for row in found}))
    return finish(source, pd.DataFrame(rows), measures, notes=notes)


def _cut_off(path: Path, task: str, items: int) -> list[str]:
    """Hold the number of items against what the results file of the same time says."""
    _, time = _named(path)
    results = path.with_name(f"results_{time}.json")
    if not time or not results.is_file() or results.stat().st_size > 2**28:
        return []
    said = json_object(results.read_bytes(), str(results)).get("n-samples")
    count = said.get(task) if isinstance(said, dict) else None
    asked = count.get("effective") if isinstance(count, dict) else None
    if not isinstance(asked, int) or asked == items:
        return []
    return [f"{path.name} holds {items} of the {asked} items that {results.name} says: cut off?"]


class _Samples:
    """The samples of one file; its metric and filter are those of the first row, if not named."""

    def __init__(self, path: Path, task: str, selection: Selection) -> None:
        self.path, self.task, self.selection = path, task, selection
        self.metric = selection.metric or selection.score
        self.filter = selection.filter
        self.filters: set[str] = set()
        self.notes: list[str] = []

    def of_filter(self) -> str:
        if self.selection.filter is None:
            return ""
        return f" of filter {self.selection.filter!r}; there are {first_few(sorted(self.filters))}"

    def rows(self) -> Iterator[dict[str, Any]]:
        for number, sample in json_lines(self.path):
            place = f"{self.path}, line {number}"
            if "doc_id" not in sample or not isinstance(sample.get("doc"), dict):
                raise UserError(f"{place}: no sample of lm-eval, which has doc_id and doc")
            own = str(sample.get("filter", "none"))
            self.filters.add(own)
            if self.selection.filter is None and len(self.filters) > 1:
                raise UserError(
                    f"{self.path}: several filters; choose one: --filter "
                    + " or ".join(sorted(self.filters))
                )
            if self.selection.filter in (None, own):
                self.filter = own
                yield self._row(sample, place)

    def _row(self, sample: dict[str, Any], place: str) -> dict[str, Any]:
        if self.metric is None:
            self.metric = self._first_metric(sample, place)
        doc, (prompts, options) = sample["doc"], _asked(sample)
        prompt = prompts if isinstance(prompts, str) else digest(prompts)
        gold = _gold(sample, options)
        document = sample.get("doc_hash")
        key, cluster = self.selection.id, self.selection.cluster
        known = {**doc, "doc_id": sample["doc_id"], "doc_hash": document}
        if cluster is not None:
            group = str(_column(known, cluster, place))
        else:
            group = wording_of(quoted_stem(doc, prompt) or prompt)
        domain = self.selection.domain
        return {
            "task": self.task,
            "id": str(sample["doc_id"] if key in (None, "id") else _column(known, key, place)),
            "content": digest(prompt, options, gold),
            "question": digest(prompt, options),
            "gold": gold,
            "document": document if isinstance(document, str) else digest(doc),
            "cluster": group,
            "domain": self.task if domain is None else str(_column(known, domain, place)),
            "score": self._score(sample, place),
        }

    def _first_metric(self, sample: dict[str, Any], place: str) -> str:
        named = sample.get("metrics")
        if not isinstance(named, list) or not named:
            standard = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps"}
            named = [k for k, v in sample.items() if k not in standard and _is_number(v)]
        if not named:
            raise UserError(f"{place}: no metric with a number an item; nothing can be compared")
        if len(named) > 1:
            self.notes.append(f"{self.task}: metric {named[0]}, there are also "
                              f"{', '.join(map(str, named[1:]))}")  # fmt: skip
        return str(named[0])

    def _score(self, sample: dict[str, Any], place: str) -> float:
        assert self.metric is not None  # noqa: S101 - for the type checker
        if self.metric in _LESS_IS_BETTER:
            raise UserError(f"{self.path}: of {self.metric} less is better; name another --metric")
        if self.metric not in sample:
            raise UserError(
                f"{place}: no metric {self.metric!r}; there are {sample.get('metrics', 'none')}"
            )
        value = sample[self.metric]
        if not _is_number(value):
            raise UserError(
                f"{place}: {self.metric} is {str(value)[:60]}, no number of one item; name another "
                "--metric"
            )
        return float(value)


def _is_number(value: Any) -> bool:
    # An integer of more than 300 digits is no float.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _column(known: Mapping[str, Any], name: str, place: str) -> Any:
    if known.get(name) is None:
        raise UserError(f"{place}: no {name!r} in doc; there are {', '.join(map(str, known))}")
    return known[name]


def _asked(sample: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The prompt, or all where requests have their own, and the options that are scored."""
    arguments = sample.get("arguments")
    if isinstance(arguments, Mapping):
        requests = [list(a.values()) for a in arguments.values() if isinstance(a, Mapping)]
    elif isinstance(arguments, list):
        requests = [list(a) for a in arguments if isinstance(a, list)]
    else:
        requests = []
    requests = [request for request in requests if request]
    if not requests:
        return [sample.get("prompt_hash"), sample["doc"]], []
    prompts = [request[0] for request in requests]
    options = [r[1].strip() for r in requests if len(r) > 1 and isinstance(r[1], str)]
    return prompts[0] if all(p == prompts[0] for p in prompts) else prompts, options


def _gold(sample: Mapping[str, Any], options: list[str]) -> str:
    """The right answer; among options the text of the one whose number is given."""
    gold = str(sample.get("target"))
    if len(options) > 1 and gold.isdecimal() and len(gold) < 4 and int(gold) < len(options):
        return options[int(gold)]
    return gold
