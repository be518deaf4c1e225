"""The folder of a run: the paths of its files, which are complete or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import LOCK, is_draft, remove_drafts
from .manifest import MANIFEST, RecordedFolder

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
    def merged(self) -> Path:
        """The folder beside which merged checkpoints are written, for the time of their cells."""
        return self.root / "merged"

    @property
    def log(self) -> Path:
        """The log of events with their times, as JSON lines."""
        return self.root / "log.jsonl"

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

    def routing(self, variant: str, target: str) -> Path:
        """Return the path of the routing of the target's tuning questions, base and steered."""
        return self.root / "routing" / f"{target}--{variant}.json"

    def profile(self, variant: str, target: str, profile_id: str) -> Path:
        """Return the path of a steering profile."""
        return self.root / "profiles" / f"{target}--{variant}--{profile_id}.json"

    def adapter(self, variant: str, target: str) -> Path:
        """Return the path of the adapters of a fine-tuned arm, a folder."""
        return self.root / "adapters" / f"{target}--{variant}"

    def cell(self, cell_id: str) -> Path:
        """Return the folder of one (variant, target, task): `cell.json` and `samples.parquet`."""
        return self.root / "cells" / cell_id

    def answers(self, owner: str) -> Path:
        """Return the path of the answers generated so far for an unfinished cell or setting."""
        return self.root / "answers" / f"{owner}.jsonl"


def open_folder(root: Path, plan_text: str, identity: Mapping[str, object]) -> RunFolder:
    """Open the folder of a new run, or that of an interrupted run with the same identity.

    This process has locked the folder, so that all drafts in it are those of killed processes;
    they are removed.

    Raises:
        UserError: the folder is that of something else, cannot be written, or a file of it is not
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
    """Return whether a process that was killed before the run began leaves such a path."""
    return is_draft(path) or path.name in (LOCK, MANIFEST)
