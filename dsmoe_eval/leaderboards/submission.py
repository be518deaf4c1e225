"""Submitting a finished run: one file per variant, appended to and never changed."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..errors import UserError
from ..files import locked, write_text
from ..results import RunFolder, read_finished
from ..results.arms import Arm
from ..results.finished import first_fault, sound
from ..results.schema import Base, Outline, RunResult
from ..variants import BASE
from .entries import folder_name, run_id
from .schema import SCHEMA_VERSION, Entry, Header, Result, Submission

_DIGITS = 9
_WIDEST = 900


@dataclass(frozen=True, slots=True)
class Added:
    """What the submission of a run did.

    Attributes:
        written: files that are new or have one more result.
        same: files that had the very same result already.
    """

    written: tuple[Path, ...]
    same: tuple[Path, ...]


def add_run(run: Path, root: Path, submission: Submission) -> Added:
    """Add every variant of a finished run to the leaderboards.

    Nothing is written unless all of it can be.

    Args:
        run: the run's folder.
        root: the leaderboards' folder.
        submission: by whom, when and on which hardware; with a reason if figures may differ from
            those of an earlier run with the same identity.

    Raises:
        UserError: the run is not finished or lacks samples, or a result of the same identity is
            there with other figures and `submission.reason` is missing, or another process works
            in the folder.
    """
    results = results_of(*_read(run), submission)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        return _add(results, root)


def _add(results: Mapping[str, Result], root: Path) -> Added:
    header = next(iter(results.values())).header
    folder = Path(header.run.suite) / folder_name(header.run.model) / header.run.fingerprint[:12]
    written, same = {}, []
    for variant, result in results.items():
        path = root / folder / f"{variant}.json"
        entry = _appended(path, folder, variant, result)
        if entry is None:
            same.append(path)
        else:
            written[path] = entry
    _write_all(
        {
            path: to_text(entry.model_dump(mode="json", exclude_defaults=True))
            for path, entry in written.items()
        }
    )
    return Added(tuple(written), tuple(same))


def identity_of(run: Path) -> str:
    """Return the id under which a finished run is submitted.

    Raises:
        UserError: it is not finished, or not of this version.
    """
    result, folder = _read(run)
    return run_id(header_of(result, folder), result.base)


def _read(run: Path) -> tuple[RunResult, RunFolder]:
    """Read a finished run's result, to the digits that are kept, and its folder."""
    finished = read_finished(run)
    if finished.folder is None:
        raise UserError(f"{run}: give the run's folder, with its cells, not its comparisons.json")
    return kept_digits(finished.result, finished.folder), finished.folder


def kept_digits(result: RunResult, folder: RunFolder) -> RunResult:
    """Return a run's result to the digits that entries keep."""
    shown = json.dumps(_rounded(result.model_dump(mode="json")))
    with sound(str(folder.comparisons)):
        return RunResult.model_validate_json(shown)


def _write_all(texts: Mapping[Path, str]) -> None:
    """Write all files or none: what can fail, as a full disk can, fails on drafts."""
    drafts = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in texts}
    try:
        for path, text in texts.items():
            write_text(drafts[path], text)
        for path, draft in drafts.items():
            os.replace(draft, path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


class Unreadable(Exception):  # noqa: N818 - what is wrong with a file, not with the program
    """A file is no result of a leaderboard: the rule that it breaks, where, and how."""

    def __init__(self, rule: str, where: str, words: str) -> None:
        super().__init__(f"{where}: {words}" if where else words)
        self.rule, self.where, self.words = rule, where, words


_RULES = {"extra_forbidden": "unknown-key", "missing": "missing-key"}
"""Of pydantic's types of error."""


def parse_entry(text: bytes) -> Entry:
    """Parse the content of a leaderboard's file.

    Raises:
        Unreadable: it is no JSON or not of the schema; of several faults the first.
    """
    try:
        content = json.loads(text, object_pairs_hook=_once)
        _check_version(content)
        return Entry.model_validate_json(text)
    except ValidationError as error:
        kind = error.errors()[0]["type"]
        rule = _RULES.get(kind, "wrong-type" if "type" in kind else "bad-value")
        raise Unreadable(rule, *first_fault(error)) from error
    except RecursionError as error:
        raise Unreadable("unreadable", "", "is nested too deeply") from error
    except ValueError as error:
        raise Unreadable("unreadable", "", f"is no JSON ({str(error)[:120]})") from error


def _check_version(content: object) -> None:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise Unreadable(
            "other-version",
            "schema_version",
            f"is {version}, and this version reads {SCHEMA_VERSION}; remove the file and submit "
            "its run again: leaderboard add",
        )


def read_entry(path: Path) -> Entry:
    """Read a leaderboard's file.

    Raises:
        UserError: it cannot be read, or is not of the schema.
    """
    try:
        return parse_entry(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Unreadable as error:
        way_out = "" if error.rule == "other-version" else "; restore it from git"
        raise UserError(f"{path}: {error}{way_out}") from error


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unreadable("duplicate-key", "", f"the key {twice!r} stands there twice")
    return found


def results_of(result: RunResult, folder: RunFolder, submission: Submission) -> dict[str, Result]:
    """Build a result for base, and one for each variant."""
    header = header_of(result, folder)
    arms: dict[str, tuple[Arm, ...]] = {
        variant: tuple(arm for arm in result.arms if arm.variant == variant)
        for variant in (BASE, *result.variants)
    }
    checked = result.leakage.model_copy(update={"rules": (), "items": ()})
    return {
        variant: Result(
            run_id=run_id(header, result.base),
            submission=submission,
            header=header,
            leakage=checked,
            base=result.base,
            arms=own,
            samples=_hashes(folder, result.base, own),
            manifest=folder.root_hash,
        )
        for variant, own in arms.items()
    }


def header_of(result: RunResult, folder: RunFolder) -> Header:
    """Return what all variants of a run share."""
    plan = json.dumps(folder.read_json(folder.identity)["plan"], sort_keys=True)
    shared = {name: getattr(result, name) for name in Outline.model_fields}
    return Header(**shared, plan_hash=hashlib.sha256(plan.encode()).hexdigest()[:16])


def _rounded(value: object) -> object:
    """Round floats to nine significant digits: more would only make diffs hard to read."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def _hashes(folder: RunFolder, base: tuple[Base, ...], arms: Sequence[Arm]) -> dict[str, str]:
    """Return the SHA-256 of each cell's samples by cell id: base's cells, or an arm's."""
    cells = [cell for arm in arms for cell in arm.cells.values()] or [row.cell for row in base]
    return {cell: samples_hash(folder, cell) for cell in dict.fromkeys(cells)}


def samples_hash(folder: RunFolder, cell: str) -> str:
    """Return the SHA-256 of a cell's file of samples.

    Raises:
        UserError: it cannot be read, or is not what the run wrote.
    """
    return folder.digest(folder.cell(cell) / "samples.parquet")


def _appended(path: Path, folder: Path, variant: str, result: Result) -> Entry | None:
    """Return the file with one more result; None if it has that result."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file; remove it")
    if not path.is_file():
        suite, model, revision = folder.parts
        return Entry(
            schema_version=SCHEMA_VERSION,
            suite=suite,
            model=model,
            revision=revision,
            variant=variant,
            results=(result,),
        )
    entry = read_entry(path)
    earlier = [one for one in entry.results if one.run_id == result.run_id]
    if any(one.same(result) for one in earlier):
        return None
    if any(one.same_figures(result) for one in earlier) and result.submission.reason is None:
        return None  # other samples, as another machine has, with the same figures
    if earlier and result.submission.reason is None:
        raise UserError(
            f"{path}: has a result of the same identity with other figures, submitted "
            f"{earlier[-1].submission.date} by {earlier[-1].submission.by}; say why they "
            "differ: --reason TEXT"
        )
    return entry.model_copy(update={"results": (*entry.results, result)})


def to_text(value: object) -> str:
    """Write JSON with one line for all that fits, so that a changed figure is a changed line."""
    return _lines(value, "") + "\n"


def _lines(value: object, indent: str) -> str:
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list) or not value or len(flat) + len(indent) <= _WIDEST:
        return flat
    deeper = indent + " "
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(k, ensure_ascii=False)}: {_lines(v, deeper)}" for k, v in value.items()
        ]
        return "{\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _lines(part, deeper) for part in value) + f"\n{indent}]"


def today() -> datetime.date:
    """Return the date of today in UTC."""
    return datetime.datetime.now(datetime.UTC).date()
