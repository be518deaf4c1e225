"""The runs of a leaderboard, put together again from the files of their variants."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..results.arms import Arm
from ..results.finished import FinishedRun, sound
from ..results.schema import SCHEMA_VERSION, Base, Outline, RunResult
from .schema import Entry, Header, Result


@dataclass(frozen=True)
class SubmittedRun:
    """One run in a leaderboard, put together again from the files of its variants.

    Attributes:
        folder: `<suite>/<model>/<revision>`, from the leaderboards' folder.
        results: by variant, `base` among them; of each the last with this run's id.
    """

    folder: Path
    run_id: str
    results: Mapping[str, Result]

    @property
    def header(self) -> Header:
        """What the variants share."""
        return next(iter(self.results.values())).header

    @property
    def base(self) -> tuple[Base, ...]:
        """Base's scores."""
        return next(iter(self.results.values())).base

    @cached_property
    def arms(self) -> dict[tuple[str, str], Arm]:
        """By variant and target."""
        return {(a.variant, a.target): a for one in self.results.values() for a in one.arms}

    @cached_property
    def run(self) -> FinishedRun:
        """The run, without its samples and without the items that leaked.

        Raises:
            UserError: an arm is missing.
        """
        first, arms = next(iter(self.results.values())), self.arms
        order = [(v, t) for t in self.header.targets for v in self.header.variants]
        with sound(str(self.folder)):
            result = RunResult(
                **{name: getattr(self.header, name) for name in Outline.model_fields},
                schema_version=SCHEMA_VERSION,
                leakage=first.leakage,
                base=self.base,
                arms=tuple(arms[key] for key in order if key in arms),
            )
        return FinishedRun(str(self.folder), result)


def run_id(header: Header, base: tuple[Base, ...]) -> str:
    """Return the hash of settings and tasks, which two results of the same run share."""
    tasks = sorted((row.task, row.version) for row in base)
    text = json.dumps([header.model_dump(mode="json"), tasks], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def submitted_runs(entries: Mapping[Path, Entry]) -> list[SubmittedRun]:
    """Return the runs in entries (by path), folder by folder in the order of submission."""
    found: dict[tuple[Path, str], dict[str, Result]] = {}
    order: dict[tuple[Path, str], tuple[datetime.date, int]] = {}
    for place, entry in sorted(entries.items()):
        for index, result in enumerate(entry.results):
            key = place.parent, result.run_id
            found.setdefault(key, {})[entry.variant] = result
            submitted = result.submission.date, index
            order[key] = max(order.get(key, submitted), submitted)
    keys = sorted(found, key=lambda key: (key[0], order[key]))
    return [SubmittedRun(*key, found[key]) for key in keys]


def entry_paths(root: Path) -> Iterator[Path]:
    """Return every JSON file four folders deep, in order."""
    yield from sorted(path for path in root.glob("*/*/*/*.json") if path.is_file())


def folder_name(model: str) -> str:
    """Return `org__model` for `org/model`, and the name of a local folder."""
    local = model.startswith(("/", ".", "~"))
    name = Path(model).name if local else model.replace("/", "__")
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"
