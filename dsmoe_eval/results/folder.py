"""The folder of a run: the paths of its files, which are complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import LOCK, is_draft, remove_drafts, write_bytes
from .manifest import MANIFEST, PARTS, RecordedFolder

WORKERS, LEASES = "workers", "leases"
_OF_WORKERS = (MANIFEST, PARTS, WORKERS, LEASES, "logs")

_MAY_CHANGE = {"threads"}
"""Keys of `run.json` that change only last digits: a run may continue with other values."""


@dataclass(frozen=True, slots=True)
class RunFolder(RecordedFolder):
    """The layout of a run's folder; each file is complete or absent."""

    @property
    def plan(self) -> Path:
        """The copy of the plan's file."""
        return self.root / "plan.yaml"

    @property
    def identity(self) -> Path:
        """The settings that a second start on this folder must share with the first."""
        return self.root / "run.json"

    @property
    def observations(self) -> Path:
        """The passes over the identification text: routing and saliency per token, and counts."""
        return self.root / "observations"

    @property
    def identification(self) -> Path:
        """The routing counts by domain, and the experts' scores."""
        return self.root / "identification.json"

    @property
    def counts(self) -> Path:
        """The routing counts by document, of a run whose learner answers nothing."""
        return self.observations / "counts.safetensors"

    @property
    def means(self) -> Path:
        """The mean residual streams, of such a run."""
        return self.observations / "means.safetensors"

    @property
    def roles(self) -> Path:
        """The model as the learner of such a run knows it, and the limit of a text in vLLM."""
        return self.root / "roles.json"

    @property
    def engine_routing(self) -> Path:
        """How far the learner and the engine that answers select the same experts."""
        return self.root / "engine-routing.json"

    @property
    def quantized_routing(self) -> Path:
        """How far quantized models select the same experts as base."""
        return self.root / "quantized-routing.json"

    @property
    def merged(self) -> Path:
        """The folder beside which merged checkpoints are written, for the time of their cells."""
        return self.root / "merged"

    @property
    def log(self) -> Path:
        """The log of events with their times, as JSON lines; each of several writers has one."""
        return self._logs / f"{self.writer}.jsonl" if self.writer else self.root / "log.jsonl"

    @property
    def _logs(self) -> Path:
        return self.root / "logs"

    @property
    def workers(self) -> Path:
        """The folder of files by which workers show that they live; see `runs.workers`."""
        return self.root / WORKERS

    @property
    def leases(self) -> Path:
        """The folder of the pieces that several workers have begun; see `runs.leases`."""
        return self.root / LEASES

    @property
    def foretold(self) -> Path:
        """The effects that were foretold before the test split was read."""
        return self.root / "foretold.json"

    def foretelling(self, name: str) -> Path:
        """Return the path of an arm's outcomes on the identification split, or of base's."""
        return self.root / "foretelling" / f"{name}.json"

    @property
    def comparisons(self) -> Path:
        """The result: every arm against base."""
        return self.root / "comparisons.json"

    @property
    def stability(self) -> Path:
        """The spread of the method, of a plan that has `stability`."""
        return self.root / "stability.json"

    @property
    def report(self) -> Path:
        """The rendered report."""
        return self.root / "report"

    @property
    def has_cells(self) -> bool:
        """Whether this is a run's folder, and not one with a copy of its result."""
        return self.manifest.exists() or (self.root / "cells").is_dir()

    def tuning(self, variant: str, target: str) -> Path:
        """Return the path of the settings that tuning tried for one arm, and of its choice."""
        return self.root / "tuning" / f"{target}--{variant}.json"

    @property
    def tuning_base(self) -> Path:
        """The path of base's scores on the tuning split."""
        return self.root / "tuning" / "base.json"

    def routing(self, variant: str, target: str) -> Path:
        """Return the path of the routing of the target's tuning questions, base and steered."""
        return self.root / "routing" / f"{target}--{variant}.json"

    def profile(self, variant: str, target: str, profile_id: str) -> Path:
        """Return the path of a steering profile."""
        return self.root / "profiles" / f"{target}--{variant}--{profile_id}.json"

    def adapter(self, variant: str, target: str) -> Path:
        """Return the path of the adapters of a fine-tuned arm, a folder."""
        return self.root / "adapters" / f"{target}--{variant}"

    def learned(self, name: str) -> Path:
        """Return the path of what a learned profile was made from, a folder."""
        return self.root / "learned" / name

    def cell(self, cell_id: str) -> Path:
        """Return the folder of one (variant, target, task): `cell.json` and `samples.parquet`."""
        return self.root / "cells" / cell_id

    def worker(self, name: str) -> Path:
        """Return the path of a worker's file."""
        return self.workers / f"{name}.json"

    def lease(self, key: str, attempt: int) -> Path:
        """Return the path of the lease of a piece; attempts count from 0."""
        return self.leases / f"{key}.{attempt}"

    def answers(self, owner: str) -> Path:
        """Return the path of the answers generated so far for an unfinished cell or setting.

        One of several writers has a separate file, which begins with what another has left.
        """
        folder = self.root / "answers"
        if self.writer is None:
            return folder / f"{owner}.jsonl"
        path = folder / f"{owner}@{self.writer}.jsonl"
        if not path.exists() and (left := _longest(folder, owner)):
            with suppress(FileNotFoundError):  # another has finished the cell just now
                write_bytes(path, left.read_bytes())
        return path

    def forget_answers(self, owner: str) -> None:
        """Remove the answers of what is finished, whoever wrote them.

        Args:
            owner: the owner of answers, such as a cell; its parts, `OWNER--PART`, are removed too.
        """
        for name in (owner, f"{owner}--*"):
            for path in _answers_of(self.root / "answers", name):
                path.unlink(missing_ok=True)

    def absorb(self) -> None:
        """Turn what several writers, who have all ended, left into the files of a single one."""
        RecordedFolder.absorb(self)
        shutil.rmtree(self.leases, ignore_errors=True)
        shutil.rmtree(self.workers, ignore_errors=True)
        for path in self.root.glob(f"{LOCK}-*"):  # of killed shards
            path.unlink()
        self._absorb_logs()
        for owner in {path.name.partition("@")[0] for path in self.root.glob("answers/*@*.jsonl")}:
            folder = self.root / "answers"
            if left := _longest(folder, owner):
                os.replace(left, folder / f"{owner}.jsonl")
            for path in folder.glob(f"{owner}@*.jsonl"):
                path.unlink()

    def _absorb_logs(self) -> None:
        """Join the logs of all writers into one, by time."""
        if not self._logs.is_dir():
            return
        whole = self.root / "log.jsonl"
        paths = [path for path in (whole, *sorted(self._logs.glob("*.jsonl"))) if path.is_file()]
        # A process that was killed here has left lines twice; the last line of any may be cut.
        lines = dict.fromkeys(
            line for path in paths for line in path.read_bytes().split(b"\n") if line[-1:] == b"}"
        )
        write_bytes(whole, b"".join(line + b"\n" for line in sorted(lines)))
        shutil.rmtree(self._logs)


def _answers_of(folder: Path, owner: str) -> list[Path]:
    return [*folder.glob(f"{owner}.jsonl"), *sorted(folder.glob(f"{owner}@*.jsonl"))]


def _longest(folder: Path, owner: str) -> Path | None:
    """Return the file with the most answers to a cell or setting; None if there is none."""
    return max(_answers_of(folder, owner), key=_size, default=None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def open_folder(
    root: Path, plan_text: str, identity: Mapping[str, object], writer: str | None = None
) -> RunFolder:
    """Open the folder of a new run, or that of an interrupted run with the same identity.

    A single writer has locked the folder, so that all drafts and leases in it are those of killed
    processes; they are removed.

    Args:
        root: the folder.
        plan_text: the content of the plan's file.
        identity: the settings that every start on the folder must share.
        writer: the name of this process among several; None: it is the only one.

    Raises:
        UserError: the folder is that of something else, cannot be written, or a file of it is not
            what the run wrote.
    """
    folder = RunFolder(root, writer)
    check_free(root)
    try:
        if folder.identity.is_file():
            if writer is None:
                folder.absorb()
            _check_identity(folder, identity)
            if writer is None:
                folder.check_unfinished()
        if writer is None:
            remove_drafts(root)
        # The identity comes first: a process killed between the two leaves a run that goes on.
        if not folder.identity.is_file():
            folder.write_json(folder.identity, identity)
        if not folder.has(folder.plan):
            folder.write(folder.plan, plan_text.encode())
    except OSError as error:
        raise UserError(f"{root} cannot be written ({error.strerror})") from error
    return folder


def check_free(root: Path) -> None:
    """Check that a folder is absent or empty, or that of a run.

    Raises:
        UserError: it holds something else.
    """
    if not root.exists() or (root.is_dir() and all(map(_is_unfinished, root.iterdir()))):
        return
    if not RunFolder(root).identity.is_file():  # looked for last: another may begin the run now
        raise UserError(f"{root} is not empty and holds no run; give another --out")


def _check_identity(folder: RunFolder, identity: Mapping[str, object]) -> None:
    before = folder.read_json(folder.identity)
    changed = [key for key in _changed(before, identity) if key not in _MAY_CHANGE]
    if changed:
        said = ", ".join(_in_words(key, before.get(key), identity.get(key)) for key in changed)
        raise UserError(
            f"{folder.root} holds a run that differs in {said}; give another --out, or delete that "
            "folder to start again"
        )


def _changed(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def _in_words(key: str, before: object, now: object) -> str:
    """Return a key that differs, of a plan with those of its keys that do."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return key
    return f"{key} ({', '.join(_changed(before, now))})"


def _is_unfinished(path: Path) -> bool:
    """Return whether a process that was killed before the run began leaves such a path."""
    return is_draft(path) or path.name.startswith(LOCK) or path.name in _OF_WORKERS
