"""What the runs of a matrix do now, read from their folders; nothing is written or locked there."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import UserError
from ..files import LOCK, this_process
from ..results.folder import WORKERS, RunFolder
from ..results.workers import BEAT, FAILED, LOCAL, WORKING, WorkerState, read_workers
from .contents import Contents, last_lines, model_of, read_contents
from .signs import Signs

WAITING, ANSWERED, FINISHED, STOPPED = "waiting", "answered", "finished", "stopped"
"""States of a run beside `working` and `failed`."""
UNATTENDED = frozenset({FAILED, STOPPED})
"""The states of a run that is not finished, and goes on only if somebody starts it again."""
LOADING, COMPARING, BETWEEN = "loading", "comparing", "between stages"
"""What a worker does outside the stages of its run."""
_SHARD = re.compile(r"shard-\d+-of-(\d+)")
_AGAIN = "start the same command again"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What the run of one model does.

    Attributes:
        model: the name of the model.
        folder: the folder of the run.
        state: `waiting`, `working`, `answered` (all cells are there, but no comparisons),
            `finished`, `failed`, or `stopped` (not finished, and no worker lives).
        stage: the stage of most of its workers; None if none lives.
        cells: the number of cells that are complete.
        cells_total: the number of all cells; None before it is known.
        share: the part of the stage that is done, from 0 to 1; None outside the stages.
        rate: steps per second of all workers in this stage; None before the first.
        unit: the name of the steps.
        seconds_left: the estimated rest of the stage; None before the first step.
        twice: the number of cells that two workers answered, the later one in vain.
        text: what went wrong, and what to do; None where there is nothing to say.
        log: the last lines of the log of a worker that failed or died.
        workers: the workers, with their stages as people read them; `lives` is false of those that
            give no sign any more.
    """

    model: str
    folder: Path
    state: str
    stage: str | None = None
    cells: int = 0
    cells_total: int | None = None
    share: float | None = None
    rate: float | None = None
    unit: str = "steps"
    seconds_left: float | None = None
    twice: int = 0
    text: str | None = None
    log: tuple[str, ...] = ()
    workers: tuple[WorkerState, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The machines of the workers that live, or else of those that failed or died, by name."""
        living = [one for one in self.workers if one.lives]
        return tuple(sorted({one.node for one in living or self.workers}))

    def to_dict(self) -> dict[str, object]:
        """Return the content for JSON."""
        fields = asdict(self) | {"folder": str(self.folder), "nodes": list(self.nodes)}
        return fields | {"workers": [_to_dict(one) for one in self.workers]}


def find_runs(root: Path) -> dict[str, Path]:
    """Return the runs in a folder by model: the folder itself, or its subfolders.

    Raises:
        UserError: there is none.
    """
    if _is_run(root):
        return {model_of(root): root}
    folders = [path for path in sorted(root.glob("*")) if _is_run(path)]
    if not folders:
        raise UserError(f"{root}: has no run; give the folder of a run, or of several models' runs")
    names = Counter(map(model_of, folders))
    return {one if names[one := model_of(path)] == 1 else path.name: path for path in folders}


class Watch:
    """Looks at the runs of several models, again and again.

    Args:
        folders: the runs by model; one whose folder is not there yet is waiting.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._signs = Signs()

    def look(self, failures: Mapping[str, str] | None = None) -> list[RunStatus]:
        """Return what each run does now.

        Args:
            failures: model -> the sentence of its failure, where that is not in the run's folder.
        """
        found = {model: _workers_of(root) for model, root in self._folders.items()}
        self._signs.see(
            RunFolder(self._folders[model]).worker(one.name)
            for model, workers in found.items()
            if not isinstance(workers, UserError)
            for one in workers
            if one.state == WORKING
        )
        return [
            self._status(model, found[model], (failures or {}).get(model))
            for model in self._folders
        ]

    def settled(self) -> list[RunStatus]:
        """Return what each run does, after some seconds where only they show whether it goes on."""
        states, until = self.look(), time.monotonic() + 2 * BEAT + 1.0
        while self._signs.unsure and time.monotonic() < until:
            time.sleep(BEAT / 6)
            states = self.look()
        return states

    def _status(
        self, model: str, found: list[WorkerState] | UserError, failure: str | None
    ) -> RunStatus:
        root = self._folders[model]
        folder, status = RunFolder(root), RunStatus(model, root, FAILED, text=failure)
        if isinstance(found, UserError):
            return replace(status, text=failure or str(found))
        try:
            contents = read_contents(root)
        except UserError as error:
            return replace(status, text=failure or str(error))
        workers = tuple(
            replace(one, age=self._signs.age(folder.worker(one.name)), stage=_stage(one, contents))
            for one in found
        )
        return _judged(_counted(replace(status, workers=workers), contents), contents, failure)


def _to_dict(worker: WorkerState) -> dict[str, object]:
    state = worker.state if worker.lives or worker.state == FAILED else STOPPED
    return {k: v for k, v in asdict(worker).items() if k != "age"} | {"state": state}


def _is_run(root: Path) -> bool:
    return any((root / name).exists() for name in ("run.json", "comparisons.json", WORKERS, LOCK))


def _workers_of(root: Path) -> list[WorkerState] | UserError:
    try:
        return read_workers(RunFolder(root))
    except UserError as error:
        return error


def _stage(worker: WorkerState, contents: Contents) -> str:
    if worker.stage is not None:
        return worker.stage
    if worker.cells is None:
        return LOADING
    all_there = contents.cells >= worker.cells and not contents.compared
    return COMPARING if all_there else BETWEEN


def _counted(status: RunStatus, contents: Contents) -> RunStatus:
    """Return a status with its numbers of cells."""
    known = [one.cells for one in status.workers] + [one.cells for one in contents.events.values()]
    total = max((one for one in known if one is not None), default=None)
    return replace(
        status,
        cells=contents.cells,
        cells_total=contents.recorded or contents.cells if contents.finished else total,
        twice=sum(one.twice for one in contents.events.values()),
    )


def _judged(status: RunStatus, contents: Contents, failure: str | None) -> RunStatus:
    """Return a status with its state, and what there is to say about it."""
    if living := [one for one in status.workers if one.lives]:
        return _at_work(status, living)
    if failure is None and contents.finished:
        return replace(status, state=FINISHED)
    if failure is None and contents.owner and LOCAL not in {one.name for one in status.workers}:
        words = _sentences(status.workers)
        if contents.owner != this_process():
            words.insert(0, f"{contents.owner} has its folder, and no worker works")
        return replace(status, state=WAITING, text="; ".join(words) or None)
    if status.workers or failure is not None:
        return _broken(status, failure)
    if 0 < status.cells == status.cells_total or _all_shards_ended(contents):
        text = "not compared yet; start the command without --shard"
        return replace(status, state=ANSWERED, text=text)
    if not contents.begun:
        return replace(status, state=WAITING, text=None)
    return replace(status, state=STOPPED, text=f"nobody works on it; {_AGAIN}")


def _broken(status: RunStatus, failure: str | None) -> RunStatus:
    """Return the status of a run whose workers failed or died."""
    failed = [one for one in status.workers if one.state == FAILED]
    ended = failed or status.workers
    words = [] if failure in {None, *(one.text for one in failed)} else [str(failure)]
    is_failed = bool(failed) or failure is not None
    return replace(
        status,
        state=FAILED if is_failed else STOPPED,
        text="; ".join([*words, *_sentences(ended), *(() if is_failed else (_AGAIN,))]),
        log=last_lines(status.folder, ended[0].name) if ended else (),
    )


def _at_work(status: RunStatus, living: Sequence[WorkerState]) -> RunStatus:
    """Return the status of a run with living workers, by the stage of most of them."""
    stages = Counter(str(one.stage) for one in living)
    stage = max(stages, key=lambda name: (stages[name], name not in (LOADING, BETWEEN)))
    there = [one for one in living if one.stage == stage]
    rate = sum(one.rate or 0.0 for one in there) or None
    share, left = _progress(there, rate)
    return replace(
        status,
        state=WORKING,
        stage=stage,
        share=share,
        rate=rate,
        unit=there[0].unit,
        seconds_left=left,
        text="; ".join(_sentences([o for o in status.workers if not o.lives])) or None,
    )


def _progress(
    workers: Sequence[WorkerState], rate: float | None
) -> tuple[float | None, float | None]:
    """Return the part of a stage that is done, and the seconds left, of its workers together.

    Workers share what is left: the one that has seen most steps done knows best. Shards do not: of
    them the last one counts.
    """
    total = max((one.total for one in workers), default=0)
    if not total:
        return None, None
    if all(_SHARD.fullmatch(one.name) for one in workers):
        done, rests = min(one.done for one in workers), [one.seconds_left for one in workers]
        return done / total, max((rest for rest in rests if rest is not None), default=None)
    done = max(one.done for one in workers)
    return done / total, None if rate is None else (total - done) / rate


def _sentences(workers: Sequence[WorkerState]) -> list[str]:
    """Describe what happened to workers that live no more."""
    return [
        f"worker {one.name} on {one.node} "
        + (f"failed: {one.text}" if one.state == FAILED else "gives no sign any more")
        for one in workers
    ]


def _all_shards_ended(contents: Contents) -> bool:
    """Return whether the logs have the end of each of several shards."""
    names = [Path(name).stem for name, events in contents.events.items() if events.ended]
    numbers = Counter(found[1] for name in names if (found := _SHARD.fullmatch(name)))
    return any(count == int(of) for of, count in numbers.items())
