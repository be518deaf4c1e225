"""Where a run keeps its things, and writes that are whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import LOCK, is_draft, remove_drafts
from .manifest import MANIFEST, RecordedFolder

_MAY_CHANGE = {"threads"}
"""Keys of `run.json` that change no more than last digits: a run may go on with other values."""


@dataclass(frozen=True, slots=True)
class RunFolder(RecordedFolder):
    """The layout of a run's folder; what stands there is complete, or is not there."""

    @property
    def plan(self) -> Path:
        """The plan, as it was given."""
        return self.root / "plan.yaml"

    @property
    def identity(self) -> Path:
        """Everything that a second start on this folder must share with the first."""
        return self.root / "run.json"

    @property
    def observations(self) -> Path:
        """Passes over the identification text: routing and saliency token by token, and counts."""
        return self.root / "observations"

    @property
    def identification(self) -> Path:
        """Routing counts by domain, and the experts' scores."""
        return self.root / "identification.json"

    @property
    def log(self) -> Path:
        """What happened when, as JSON lines."""
        return self.root / "log.jsonl"

    @property
    def comparisons(self) -> Path:
        """The result: every arm against base."""
        return self.root / "comparisons.json"

    @property
    def report(self) -> Path:
        """The rendered report."""
        return self.root / "report"

    @property
    def has_cells(self) -> bool:
        """Whether this is a run's folder, and not one with a copy of its result."""
        return self.manifest.exists() or (self.root / "cells").is_dir()

    def tuning(self, variant: str, target: str) -> Path:
        """What tuning tried for one arm, and what it chose."""
        return self.root / "tuning" / f"{target}--{variant}.json"

    def routing(self, variant: str, target: str) -> Path:
        """Where the target's tuning questions were routed, before and after."""
        return self.root / "routing" / f"{target}--{variant}.json"

    def profile(self, variant: str, target: str, profile_id: str) -> Path:
        """A steering profile."""
        return self.root / "profiles" / f"{target}--{variant}--{profile_id}.json"

    def adapter(self, variant: str, target: str) -> Path:
        """Adapters of a fine-tuned arm."""
        return self.root / "adapters" / f"{target}--{variant}"

    def cell(self, cell_id: str) -> Path:
        """One (variant, target, task): `cell.json` and `samples.parquet`."""
        return self.root / "cells" / cell_id

    def answers(self, owner: str) -> Path:
        """Generated answers of what is still being asked: a cell, or a setting that is tried."""
        return self.root / "answers" / f"{owner}.jsonl"


def open_folder(root: Path, plan_text: str, identity: Mapping[str, object]) -> RunFolder:
    """A new run's folder, or the one of an interrupted run of the very same thing.

    This process has locked it, so that drafts are those of killed ones, and are removed.

    Raises:
        UserError: the folder belongs to something else, cannot be written, or a file of it is not
            what the run wrote.
    """
    folder = RunFolder(root)
    if folder.identity.is_file():
        before = folder.read_json(folder.identity)
        changed = sorted(
            key
            for key in {*before, *identity} - _MAY_CHANGE
            if before.get(key) != identity.get(key)
        )
        if changed:
            raise UserError(
                f"{root} holds a run that differs in {', '.join(changed)}; give another --out, or "
                "delete that folder to start again"
            )
        folder.check_unfinished()
    elif root.exists() and not (root.is_dir() and all(map(_is_unfinished, root.iterdir()))):
        raise UserError(f"{root} is not empty and holds no run; give another --out")
    try:
        remove_drafts(root)
        # The identity comes first: a process killed between the two leaves a run that goes on.
        if not folder.identity.is_file():
            folder.write_json(folder.identity, identity)
        if not folder.has(folder.plan):
            folder.write(folder.plan, plan_text.encode())
    except OSError as error:
        raise UserError(f"{root} cannot be written ({error.strerror})") from error
    return folder


def _is_unfinished(path: Path) -> bool:
    """True for what a process that was killed before there was a run leaves behind."""
    return is_draft(path) or path.name in (LOCK, MANIFEST)
