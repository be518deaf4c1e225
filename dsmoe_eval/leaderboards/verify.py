"""Entries checked against their runs: every figure computed again from the answers in the cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..results import RunFolder
from ..results.finished import as_finished
from ..results.recompute import cell_faults, recompute
from .entries import folder_name, run_id
from .schema import Entry, Result, Submission
from .submission import header_of, kept_digits, read_entry, results_of, today

ABSENT = "absent"
"""What is shown for a figure that is on one side only."""
_KEYS = ("target", "task", "split")
"""By these the rows of a list are named in a path, the first that a row has."""
_FACTS = ("settings", "profile", "probe", "cells", "information", "prompt_tokens")
"""The parts of an arm that are no figures of its answers."""
Leaves = dict[str, object]
"""Path -> value: what is left of JSON without its structure."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A figure of an entry that is not the one that its run's answers give.

    Attributes:
        path: the path of the figure within the entry's file.
        stored: the figure in the entry; `absent` if there is none.
        recomputed: the figure by the run; `absent` if there is none.
    """

    path: str
    stored: object
    recomputed: object

    def __str__(self) -> str:
        """Return the difference in one line."""
        return f"{self.path}: stored {self.stored}, recomputed {self.recomputed}"


@dataclass(frozen=True, slots=True)
class Verified:
    """A result of an entry, compared with its run.

    Attributes:
        entry: the entry's file.
        run_id: the id of the result, as stored.
        run: the folder of its run; None if no folder that was given holds it, and nothing was
            compared.
        figures: the number of figures that were computed again.
        facts: the number of other values, which were compared with the run's files.
        arms: the number of arms.
        items: the number of answered items, in the cells of base and of the arms.
        differences: every value that is not the run's.
    """

    entry: str
    run_id: str
    run: str | None
    figures: int
    facts: int
    arms: int
    items: int
    differences: tuple[Mismatch, ...]


def verify(entries: Sequence[Path], runs: Sequence[Path]) -> list[Verified]:
    """Compute the figures of entries again from their runs, and compare.

    Args:
        entries: files of leaderboards, or folders of such files.
        runs: folders of finished runs, or folders that hold such folders.

    Raises:
        UserError: a path leads to no entry or no run; no run fits any result of an entry; or a file
            of the run is not what the run wrote.
    """
    known = Runs(runs)
    return [one for path in _entry_files(entries) for one in _verify(path, known)]


def _entry_files(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path}: holds no entry; give a file or a folder of a leaderboard")
        yield from files


def _verify(path: Path, runs: Runs) -> Iterator[Verified]:
    entry = read_entry(path)
    known = [runs.of(result) for result in entry.results]
    if not any(known):
        names = ", ".join(result.run_id for result in entry.results)
        raise UserError(
            f"{path}: no folder that was given holds its run (run_id {names}); give the folder "
            "that was submitted: --runs DIR"
        )
    for index, (result, run) in enumerate(zip(entry.results, known, strict=True)):
        if run is None:
            yield Verified(str(path), result.run_id, None, 0, 0, 0, 0, ())
        else:
            yield run.compare(path, entry, index)


class Runs:
    """The runs that were given, each computed again once, when an entry needs it.

    Raises:
        UserError: a folder is no finished run, and holds none.
    """

    def __init__(self, given: Sequence[Path]) -> None:
        self._folders = [folder for path in given for folder in _run_folders(path)]
        self._recomputed: dict[Path, RecomputedRun] = {}

    def of(self, result: Result) -> RecomputedRun | None:
        """Return the run of a result, by its files' root hash or else by its id; None if absent."""
        by_hash = (one for one in self._folders if one.root_hash == result.manifest)
        by_id = (one for one in self._folders if _id_of(one) == result.run_id)
        folder = next(by_hash, None) or next(by_id, None)
        if folder is None:
            return None
        if folder.root not in self._recomputed:
            self._recomputed[folder.root] = RecomputedRun(folder)
        return self._recomputed[folder.root]


def _run_folders(given: Path) -> list[RunFolder]:
    inside = sorted(given.glob("*/comparisons.json"))
    files = [given / "comparisons.json"] if (given / "comparisons.json").is_file() else inside
    if not files:
        raise UserError(
            f"{given}: no finished run (comparisons.json) is in it; give a run's folder"
        )
    return [RunFolder(file.parent) for file in files]


def _id_of(folder: RunFolder) -> str:
    stated = as_finished(folder.read_json(folder.comparisons), str(folder.root)).result
    return run_id(header_of(stated, folder), stated.base)


class RecomputedRun:
    """A run whose figures were computed again, and what entries of it must hold."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        result = recompute(folder)
        unsigned = Submission(date=today(), by="-", hardware="-")  # not of the run: not compared
        self.results = results_of(kept_digits(result, folder), folder, unsigned)
        self._faults = list(cell_faults(folder, result))

    def compare(self, path: Path, entry: Entry, index: int) -> Verified:
        """Compare a result of an entry, by its index, with the run."""
        stored, own = entry.results[index], self.results.get(entry.variant)
        if own is None:
            raise UserError(
                f"{path}: is of variant {entry.variant}, which run {self.folder.root} does not "
                f"have; it has {', '.join(self.results)}"
            )
        expected = _result_leaves(own)
        place = f"results[{index}]"
        found = [
            *_unlike("", _place(entry), _place_of(own)),
            *_unlike(f"{place}.", _result_leaves(stored), expected),
            *(
                Mismatch(f"{place}.{where}", says, is_of)
                for variant, where, says, is_of in self._faults
                if variant == entry.variant
            ),
        ]
        figures = sum(_is_figure(where, value) for where, value in expected.items())
        return Verified(
            entry=str(path),
            run_id=stored.run_id,
            run=str(self.folder.root),
            figures=figures,
            facts=len(expected) - figures,
            arms=len(own.arms),
            items=_items(own),
            differences=tuple(found),
        )


def _place(entry: Entry) -> Leaves:
    return {"suite": entry.suite, "model": entry.model, "revision": entry.revision}


def _place_of(own: Result) -> Leaves:
    run = own.header.run
    model, revision = folder_name(run.model), run.fingerprint[:12]
    return {"suite": run.suite, "model": model, "revision": revision}


def _result_leaves(result: Result) -> Leaves:
    return dict(_leaves(result.model_dump(mode="json", exclude={"submission"})))


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield path and value of everything in JSON that holds nothing else."""
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            yield from _leaves(one, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value:
        for index, one in enumerate(value):
            yield from _leaves(one, f"{path}[{_name(one, index)}]")
    else:
        yield path, value


def _name(row: object, index: int) -> object:
    if not isinstance(row, Mapping):
        return index
    return next((row[key] for key in _KEYS if key in row), index)


def _unlike(prefix: str, stored: Leaves, expected: Leaves) -> Iterator[Mismatch]:
    for path in {**expected, **stored}:
        one, other = stored.get(path, ABSENT), expected.get(path, ABSENT)
        if one != other:
            yield Mismatch(prefix + path, one, other)


def _is_figure(path: str, value: object) -> bool:
    part, _, rest = path.partition("].")
    computed = part.startswith("base[") or (
        part.startswith("arms[") and rest.split(".")[0] not in _FACTS
    )
    return computed and not isinstance(value, str)


def _items(own: Result) -> int:
    base = {row.task: row.n for row in own.base}
    return sum(base.values()) + sum(base[task] for arm in own.arms for task in arm.cells)
