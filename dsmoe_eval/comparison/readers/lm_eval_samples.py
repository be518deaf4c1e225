"""What lm-eval 0.4 writes with `--log_samples`: `samples_<task>_<time>.jsonl`, and its folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from ...errors import UserError
from ...tasks.items import digest, quoted_stem, wording_of
from ..settings import Settings, generation, merged
from .files import Record, json_object, json_records
from .likelihoods import BITS, GOLD_METRICS, sample_bits, sample_gold_logprob
from .results import Measures, Results, Selection, finish, first_few

_FILE = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[^_]+)\.jsonl(\.gz)?$")
_KEYS = {"doc_id", "doc", "resps"}
_STANDARD = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps"}
_LESS_IS_BETTER = {"brier_score", "perplexity", "ter", "byte_perplexity", "word_perplexity"}
_LARGEST_SUMMARY = 2**28


def is_lm_eval(row: Record) -> bool:
    """Return whether a row of JSON is one of lm-eval's samples."""
    return set(row) >= _KEYS


def read_samples_folder(folder: Path, selection: Selection) -> Results:
    """Read an lm-eval results folder: the newest samples of each task.

    Raises:
        UserError: it holds no samples, those of several models, or damaged ones.
    """
    files = [path for path in sorted(folder.rglob("samples_*")) if _FILE.fullmatch(path.name)]
    models = sorted({path.parent for path in files})
    if len(models) > 1:
        raise UserError(f"{folder}: holds {len(models)} models' results; name one: {models[0]}")
    newest: dict[str, tuple[str, Path]] = {}
    for path in files:
        task, time = _task_and_time(path)
        newest[task] = max(newest.get(task, ("", path)), (time, path))
    if selection.task is not None:
        if selection.task not in newest:
            raise UserError(
                f"{folder}: no task {selection.task!r}; name one of {first_few(newest)} with --task"
            )
        newest = {selection.task: newest[selection.task]}
    notes = []
    read = {path for _, path in newest.values()}
    older = [path.name for path in files if _task_and_time(path)[0] in newest and path not in read]
    if older:
        times = ", ".join(f"{task} {time}" for task, (time, _) in sorted(newest.items()))
        notes.append(f"older samples left out: {first_few(older)}; read are {times}")
    return _read(
        str(folder), dict(sorted((t, p) for t, (_, p) in newest.items())), selection, notes
    )


def read_samples_file(path: Path, selection: Selection) -> Results:
    """Read one file of samples.

    Raises:
        UserError: it is damaged, or its metric or filter is left open.
    """
    return _read(str(path), {_task_and_time(path)[0]: path}, selection, [])


def read_samples_files(folder: Path, files: Sequence[Path], selection: Selection) -> Results:
    """Read a folder of files of samples, one per task, with any names.

    Raises:
        UserError: as `read_samples_file`.
    """
    return _read(str(folder), {_task_and_time(path)[0]: path for path in files}, selection, [])


def _task_and_time(path: Path) -> tuple[str, str]:
    """Return the task and the time that the file's name states."""
    named = _FILE.fullmatch(path.name)
    if named is None:
        return path.name.removesuffix(".gz").rpartition(".")[0], ""
    return named["task"], named["time"]


def _read(
    source: str, files: Mapping[str, Path], selection: Selection, notes: list[str]
) -> Results:
    rows: list[dict[str, object]] = []
    measures: Measures = {}
    settings: dict[str, Settings] = {}
    for task, path in files.items():
        reader = _Samples(path, task, selection)
        samples = list(reader.rows())
        if not samples:
            raise UserError(f"{path}: holds no sample{reader.of_filter()}")
        rows += samples
        measures[task] = (reader.metric, reader.filter)
        summary = _summary(path)
        settings[task] = _recorded(summary, task) | (
            {"generation": merged(reader.arguments)} if reader.arguments else {}
        )
        notes += reader.notes
        notes += _cut_off(path, summary, task, len({row["id"] for row in samples}))
    return finish(
        source, pd.DataFrame(rows), measures, notes=notes, settings=settings, id_name="doc_id",
        repeats="or name another --id where they are different items",
    )  # fmt: skip


def _summary(path: Path) -> Record:
    """Return the results file that lm-eval wrote at the same time, empty if there is none."""
    _, time = _task_and_time(path)
    results = path.with_name(f"results_{time}.json")
    if not time or not results.is_file() or results.stat().st_size > _LARGEST_SUMMARY:
        return {}
    return json_object(results.read_bytes(), str(results))


def _recorded(summary: Record, task: str) -> dict[str, Mapping[str, str]]:
    """Return the settings that the results file records: few-shot, limit, the task's version."""
    recorded: dict[str, Mapping[str, str]] = {}
    for group, key in (("few-shot examples", "n-shot"), ("task version", "versions")):
        values = summary.get(key)
        if isinstance(values, Mapping) and task in values:
            recorded[group] = {group: str(values[task])}
    config = summary.get("config")
    if isinstance(config, Mapping):
        limit = config.get("limit")
        recorded["limit"] = {} if limit is None else {"limit": str(limit)}
    return recorded


def _cut_off(path: Path, summary: Record, task: str, items: int) -> list[str]:
    """Compare the number of items with that of the results file of the same time."""
    counts = summary.get("n-samples")
    count = counts.get(task) if isinstance(counts, Mapping) else None
    effective = count.get("effective") if isinstance(count, Mapping) else None
    if not isinstance(effective, int) or effective == items:
        return []
    return [f"{path.name} holds {items} of the {effective} items that lm-eval counted: cut off?"]


class _Samples:
    """The samples of one file; metric and filter are those of the first row unless selected."""

    def __init__(self, path: Path, task: str, selection: Selection) -> None:
        self.path, self.task, self.selection = path, task, selection
        self.metric = selection.metric or selection.score
        self.filter: str | None = None
        self.filters: set[str] = set()
        self.unnamed: Counter[str] = Counter()
        self.arguments: list[Mapping[str, str]] = []
        self.notes: list[str] = []

    def of_filter(self) -> str:
        """Return the end of the message that no sample is left."""
        if self.selection.filter is None:
            return "; score the task again"
        start = f" of filter {self.selection.filter!r}; "
        if self.filters:
            return f"{start}name one of {first_few(sorted(self.filters))} with --filter"
        return f"{start}the samples name no filter, so give a number: {self._numbers()}"

    def rows(self) -> Iterator[dict[str, object]]:
        first: dict[str, Record] = {}
        for where, sample in json_records(self.path):
            if "doc_id" not in sample or not isinstance(sample.get("doc"), dict):
                raise UserError(
                    f"{where}: not a sample of lm-eval, which has doc_id and doc; remove the line, "
                    "or run lm-eval again"
                )
            if not self._is_selected(sample):
                continue
            if "filter" not in sample and self.selection.filter is None:
                document = str(sample["doc_id"])
                if first.setdefault(document, sample) != sample:
                    self._refuse_unnamed()
            yield self._row(sample, where)

    def _is_selected(self, sample: Record) -> bool:
        selected = self.selection.filter
        if "filter" not in sample:
            document = str(sample["doc_id"])
            self.unnamed[document] += 1
            if selected is None:
                return True
            self.filter = f"number {selected}"
            return selected == str(self.unnamed[document])
        name = str(sample["filter"])
        self.filters.add(name)
        if selected is None and len(self.filters) > 1:
            raise UserError(
                f"{self.path}: several filters; choose one: --filter "
                + " or ".join(sorted(self.filters))
            )
        if selected in (None, name):
            self.filter = name
        return selected in (None, name)

    def _refuse_unnamed(self) -> None:
        counts = Counter(
            str(sample.get("doc_id"))
            for _, sample in json_records(self.path)
            if "filter" not in sample
        )
        self.unnamed = counts
        raise UserError(
            f"{self.path}: {max(counts.values())} scores per document, of filters that the samples "
            f"do not name; choose one by its number in the file: {self._numbers()}"
        )

    def _numbers(self) -> str:
        most = max(self.unnamed.values(), default=1)
        return " or ".join(f"--filter {number}" for number in range(1, most + 1))

    def _row(self, sample: Record, where: str) -> dict[str, object]:
        if self.metric is None:
            self.metric = self._first_metric(sample, where)
        doc = sample["doc"]
        assert isinstance(doc, dict)  # noqa: S101 - checked in `rows`
        requests = _requests(sample)
        prompts, options = _prompt_and_options(sample, requests)
        self.arguments += [generation(value) for r in requests for value in r[1:2]
                           if isinstance(value, Mapping)]  # fmt: skip
        prompt = prompts if isinstance(prompts, str) else digest(prompts)
        text = isinstance(sample.get(BITS), list)
        gold = "" if text else _gold(sample, options)  # a text is no answer to anything
        document = sample.get("doc_hash")
        key, cluster = self.selection.id, self.selection.cluster
        known = {**doc, "doc_id": sample["doc_id"], "doc_hash": document}
        if cluster is not None:
            group = str(_column(known, cluster, where))
        else:
            group = wording_of(quoted_stem(doc, prompt) or prompt)
        domain = self.selection.domain
        return {
            "task": self.task,
            "id": str(sample["doc_id"] if key in (None, "id") else _column(known, key, where)),
            "content": digest(prompt, options, gold),
            "question": digest(prompt, options),
            "gold": gold,
            "document": document if isinstance(document, str) else digest(doc),
            "cluster": group,
            "domain": self.task if domain is None else str(_column(known, domain, where)),
            **self._scored(sample, prompts, options, where),
        }

    def _scored(
        self, sample: Record, prompts: object, options: Sequence[str], where: str
    ) -> dict[str, float]:
        if self.metric in GOLD_METRICS:
            gold = sample_gold_logprob(sample, prompts, options, self.metric, where)
            return {"score": gold}
        if self.metric == BITS:
            score, size = sample_bits(sample, where)
            return {"score": score, "size": size}
        return {"score": self._score(sample, where)}

    def _first_metric(self, sample: Record, where: str) -> str:
        named = sample.get("metrics")
        if not isinstance(named, list) or not named:
            named = [k for k, v in sample.items() if k not in _STANDARD and _is_number(v)]
        if not named:
            raise UserError(
                f"{where}: no metric that has a number per item, so nothing can be compared; "
                "choose a task whose metric is a mean over items"
            )
        if len(named) > 1:
            self.notes.append(f"{self.task}: metric {named[0]}, there are also "
                              f"{', '.join(map(str, named[1:]))}")  # fmt: skip
        return str(named[0])

    def _score(self, sample: Record, where: str) -> float:
        assert self.metric is not None  # noqa: S101 - for the type checker
        if self.metric in _LESS_IS_BETTER:
            raise UserError(
                f"{self.path}: of {self.metric} less is better, and it is no mean over items; name "
                "another --metric, of texts bits_per_byte"
            )
        if self.metric not in sample:
            numbers = [k for k, v in sample.items() if k not in _STANDARD and _is_number(v)]
            raise UserError(
                f"{where}: no metric {self.metric!r}; name one of {first_few(numbers) or 'none'} "
                "with --metric"
            )
        value = sample[self.metric]
        if not isinstance(value, int | float) or not _is_number(value):
            raise UserError(
                f"{where}: {self.metric} is {str(value)[:60]}, which is no number of one item; "
                "name another --metric"
            )
        return float(value)


def _is_number(value: object) -> bool:
    # An integer of more than 300 digits is no float.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _column(known: Record, name: str, where: str) -> object:
    if known.get(name) is None:
        raise UserError(f"{where}: no {name!r} in doc; name one of {', '.join(map(str, known))}")
    return known[name]


def _requests(sample: Record) -> list[list[object]]:
    """Return the arguments of each request to the model; the first is the prompt."""
    arguments = sample.get("arguments")
    if isinstance(arguments, Mapping):
        requests = [list(a.values()) for a in arguments.values() if isinstance(a, Mapping)]
    elif isinstance(arguments, list):
        requests = [list(a) for a in arguments if isinstance(a, list)]
    else:
        requests = []
    return [request for request in requests if request]


def _prompt_and_options(
    sample: Record, requests: Sequence[list[object]]
) -> tuple[object, list[str]]:
    """Return the prompt, or all where requests differ in it, and the options that are scored."""
    if not requests:
        return [sample.get("prompt_hash"), sample["doc"]], []
    prompts = [request[0] for request in requests]
    options = [r[1].strip() for r in requests if len(r) > 1 and isinstance(r[1], str)]
    return prompts[0] if all(p == prompts[0] for p in prompts) else prompts, options


def _gold(sample: Record, options: Sequence[str]) -> str:
    """Return the right answer; among options the text of the one whose number is given."""
    gold = str(sample.get("target"))
    if len(options) > 1 and gold.isdecimal() and len(gold) < 4 and int(gold) < len(options):
        return options[int(gold)]
    return gold
