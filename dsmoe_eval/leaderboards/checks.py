"""What guards a leaderboard in CI: every file, and the files against each other."""

from __future__ import annotations

import hashlib
import math
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..results.arms import Arm
from ..results.other_arms import OTHERS, equals_model
from ..results.schema import Base
from ..results.shares import gain_of
from ..variants import get_variant
from .consistency import adjustment_faults, arm_faults
from .entries import SubmittedRun, entry_paths, folder_name, run_id, submitted_runs
from .schema import Entry, Result
from .submission import Unreadable, parse_entry, today

RENDERED = ("README.md", "index.html", "*.png", "items/*.js")
"""What `build` writes, beside the entries."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        rule: its name.
        file: relative to the leaderboards' folder.
        where: within the file.
        words: what is wrong.
    """

    rule: str
    file: str
    where: str
    words: str

    def __str__(self) -> str:
        """Return the finding in one line."""
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{self.rule}: {place}: {self.words}"


@dataclass(frozen=True, slots=True)
class Files:
    """The content of a folder of leaderboards, each file read once.

    Attributes:
        entries: those that can be read, by their path in the folder.
        faults: of the others.
        stamp: hash of all files' bytes; the rendered pages name it.
    """

    root: Path
    entries: Mapping[Path, Entry]
    faults: tuple[Finding, ...]
    stamp: str


def read_entries(root: Path) -> Files:
    """Read all files of a folder of leaderboards.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no folder of leaderboards; submit a run first: leaderboard add")
    entries, faults, total = {}, [], hashlib.sha256()
    for path in entry_paths(root):
        place = path.relative_to(root)
        try:
            content = path.read_bytes()
            total.update(str(place).encode() + b"\0" + content)
            entries[place] = parse_entry(content)
        except Unreadable as error:
            faults.append(Finding(error.rule, str(place), error.where, error.words))
        except OSError as error:
            faults.append(Finding("unreadable", str(place), "", str(error.strerror)))
    return Files(root, entries, tuple(faults), total.hexdigest()[:16])


def check_leaderboards(root: Path, since: str | None = None) -> list[Finding]:
    """Return everything that is wrong with the leaderboards of a folder.

    Args:
        root: the folder.
        since: a git revision whose results must all still be there, unchanged.

    Raises:
        UserError: there is no such folder or revision.
    """
    files = read_entries(root)
    found = check_entries(files)
    return found if since is None else [*found, *_rewritten(root, files.entries, since)]


def check_entries(files: Files) -> list[Finding]:
    """Return everything that is wrong with files that were read: each alone, and together."""
    root, entries, found = files.root, files.entries, list(files.faults)
    known = {root / place for place in entries} | {root / one.file for one in found}
    rendered = {path for pattern in RENDERED for path in root.glob(pattern)}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        own = name.split("/")[0] == ".git"  # the folder may be a repository of its own
        if path.is_file() and not own and path not in known | rendered:
            found.append(Finding("unexpected-file", name, "", "is no result; remove it"))
    for place, entry in entries.items():
        found += (Finding(rule, str(place), *rest) for rule, *rest in _entry_faults(place, entry))
    runs = submitted_runs(entries)
    for run in runs:
        found += _run_findings(run)
    found += _suite_findings(runs)
    found += _stale(files)
    return found


def _entry_faults(place: Path, entry: Entry) -> Iterator[tuple[str, str, str]]:
    if place != entry.place:
        yield "wrong-place", "", f"says that it is {entry.place}"
    for index, result in enumerate(entry.results):
        where = f"results[{index}]"
        yield from ((r, f"{where}.{w}", t) for r, w, t in _result_faults(entry, result))
        earlier = entry.results[:index]
        for other in earlier:
            if other.run_id == result.run_id and other.same(result):
                yield "duplicate", where, "the same result stands there twice"
            elif other.run_id == result.run_id and result.submission.reason is None:
                yield "disagreement", where, "differs from an earlier one and does not say why"
        if earlier and result.submission.date < earlier[-1].submission.date:
            yield "date", f"{where}.submission.date", "is before that of the result above it"


def _result_faults(entry: Entry, result: Result) -> Iterator[tuple[str, str, str]]:
    header = result.header
    if result.run_id != run_id(header, result.base):
        yield "identity", "run_id", "is not the hash of the settings that stand there"
    if result.submission.date > today():
        yield "date", "submission.date", f"{result.submission.date} is yet to come"
    model = folder_name(header.run.model)
    if (model, header.run.fingerprint[:12]) != (entry.model, entry.revision):
        yield "identity", "header.run", f"is of model {model} {header.run.fingerprint[:12]}"
    if header.run.suite != entry.suite:
        yield "identity", "header.run.suite", f"is {header.run.suite}"
    yield from _outline_faults(entry, result)
    base = {row.task: row for row in result.base}
    if len(base) < len(result.base):
        yield "duplicate", "base", "a task stands there twice"
    for row in result.base:
        low, high = row.ci95 or (0.0, 1.0)
        if not low - 1e-9 <= row.score <= high + 1e-9:  # zero of n can begin at 1e-17
            yield "interval", f"base[{row.task}].ci95", f"excludes its estimate {row.score:g}"
    for arm in result.arms:
        name = f"arms[{arm.target}]"
        yield from ((r, f"{name}.{w}", t) for r, w, t in arm_faults(arm, base))


def _outline_faults(entry: Entry, result: Result) -> Iterator[tuple[str, str, str]]:
    """Check that every arm is there once, and every cell has the hash of its samples."""
    targets = [arm.target for arm in result.arms]
    expected = [] if entry.variant == "base" else list(result.header.targets)
    for target in sorted({*targets, *expected}):
        if target not in targets:
            yield "missing-arm", f"arms[{target}]", "is not there"
        elif target not in expected or targets.count(target) > 1:
            yield "duplicate", f"arms[{target}]", "is there twice, or is no target of the run"
    if any(arm.variant != entry.variant for arm in result.arms):
        yield "identity", "arms", f"an arm is of another variant than {entry.variant}"
    cells = {cell for arm in result.arms for cell in arm.cells.values()}
    if set(result.samples) != (cells or {row.cell for row in result.base}):
        yield "samples", "samples", "are not those of the result's cells"


def _run_findings(run: SubmittedRun) -> Iterator[Finding]:
    """Compare the files of one run with each other."""

    def finding(rule: str, variant: str, where: str, words: str) -> Finding:
        return Finding(rule, str(run.folder / f"{variant}.json"), where, words)

    for variant in ("base", *run.header.variants):
        if variant not in run.results:
            yield finding("missing-variant", variant, "", f"run {run.run_id} answered it too")
    first = next(iter(run.results.values()))
    for variant, result in run.results.items():
        if result.base != run.base:
            yield finding("base", variant, "base", "is not that of the run's other variants")
        if result.leakage != first.leakage:
            yield finding("leakage", variant, "leakage", "is not that of the run's other variants")
    for arm, (rule, where, words) in adjustment_faults(list(run.arms.values())):
        yield finding(rule, arm.variant, f"arms[{arm.target}].{where}", words)
    for arm in run.arms.values():
        for rule, where, words in _faults_beside_others(run, arm):
            yield finding(rule, arm.variant, f"arms[{arm.target}].{where}", words)


def _faults_beside_others(run: SubmittedRun, arm: Arm) -> Iterator[tuple[str, str, str]]:
    """Yield rule, path and words of each fault of an arm's figures over other arms."""
    variant = get_variant(arm.variant)
    if variant.zero_strength and not equals_model(arm, run.arms.values()):
        model = "base" if variant.quantized is None else "the quantized model"
        yield "sham", "target_result", f"a sham must equal {model}, here and in all domains"
    for words in _control_faults(run, arm):
        yield "control", "generalization", words
    for words in _share_faults(run, arm):
        yield "share", "share_of_best", words


def _control_faults(run: SubmittedRun, arm: Arm) -> Iterator[str]:
    """Check that a gain over other arms is the difference of their target scores."""
    variants = [get_variant(name) for name in run.header.variants]
    for name, find in OTHERS.items():
        found = [other.name for other in find(get_variant(arm.variant), variants)]
        names, figures = ", ".join(found), arm.comparisons.get(name)
        others = [run.arms.get((other, arm.target)) for other in found]
        scores = [other.target_result.score_b for other in others if other is not None]
        if not scores or len(scores) < len(others):
            if figures is not None and not found:
                yield f"{name} is there, but the run has no such arm"
            continue
        if figures is None:
            yield f"{name} is missing, though {names} was run"
        elif abs(figures.score_a - sum(scores) / len(scores)) > 1e-7:
            yield f"{name} is not against {names}, which scored otherwise"
        elif abs(figures.score_b - arm.target_result.score_b) > 1e-7:
            yield f"{name} is not of this arm, which scored otherwise"


def _share_faults(run: SubmittedRun, arm: Arm) -> Iterator[str]:
    """Check that a share of the best profile's gain is the ratio of the two gains."""
    own = arm.share_of_best
    if own is None or own.share is None:
        return
    best = run.arms.get((own.best, arm.target))
    if best is None:
        yield f"is of {own.best}, which the run does not have"
        return
    low, high = own.ci95 or (own.share, own.share)
    if not low - 1e-7 <= own.share <= high + 1e-7:
        yield "excludes its estimate"
    gain, whole = (gain_of(one, run.header.outcome) for one in (arm, best))
    if gain is None or whole is None or not math.isclose(own.share * whole, gain, abs_tol=1e-7):
        yield f"is not the ratio of the gains of {arm.variant} and {own.best}"


def _suite_findings(runs: list[SubmittedRun]) -> Iterator[Finding]:
    """Check that a ranking has one version of each task, and that no task went missing."""
    suites: dict[str, list[SubmittedRun]] = {}
    for run in runs:
        if run.header.run.limit is None:  # a smoke test is ranked with nothing
            suites.setdefault(run.folder.parts[0], []).append(run)
    for ranked in suites.values():
        versions: dict[str, tuple[str, SubmittedRun]] = {}
        asked = {row.task: row for run in ranked for row in run.base}
        for run in ranked:
            file = str(run.folder / "base.json")
            own = {row.task: row for row in run.base}
            for task, row in own.items():
                first = versions.setdefault(task, (row.version, run))
                if first[0] != row.version:
                    words = f"is of another version than in {first[1].folder}; name a new suite"
                    yield Finding("mixed-versions", file, f"base[{task}]", words)
            for task in sorted(_wanted(run, asked) - set(own)):
                yield Finding("vanished-task", file, f"base[{task}]", "other runs answered it")


def _wanted(run: SubmittedRun, asked: Mapping[str, Base]) -> set[str]:
    """Return the tasks of the suite that the run's targets need."""
    targets = set(run.header.targets)
    return {
        task
        for task, row in asked.items()
        if (row.domain in targets if row.role == "target" else targets - {row.domain})
    }


def _stale(files: Files) -> Iterator[Finding]:
    root, expected = files.root, files.stamp if files.entries else ""
    for name in ("README.md", "index.html"):
        path = root / name
        if not path.is_file():
            yield Finding("stale-page", name, "", "is not there; run leaderboard build")
        elif f"entries {expected}".encode() not in path.read_bytes():
            yield Finding("stale-page", name, "", "is of other entries; run leaderboard build")


def _rewritten(root: Path, entries: Mapping[Path, Entry], since: str) -> Iterator[Finding]:
    """Check that files were only appended to, so that every earlier result is still there."""
    for place, text in _earlier(root, since):
        try:
            before = parse_entry(text).results
        except Unreadable as error:
            words = f"in {since} it {error.words}; compare with a later revision"
            yield Finding("unreadable-before", str(place), error.where, words)
            continue
        now = entries[place].results if place in entries else ()
        if now[: len(before)] != before:
            words = f"results of {since} were changed or removed; append to them instead"
            yield Finding("rewritten", str(place), "results", words)


def _earlier(root: Path, since: str) -> Iterator[tuple[Path, bytes]]:
    def git(*arguments: str) -> bytes:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[:1]
            raise UserError(f"{root}: git cannot show {since!r} ({' '.join(reason)})")
        return done.stdout

    commit = (
        git("rev-parse", "--verify", "--end-of-options", f"{since}^{{commit}}").decode().strip()
    )
    names = git("ls-tree", "-r", "-z", "--name-only", commit, "--", ".").decode().split("\0")
    for name in names:
        if name.count("/") == 3 and name.endswith(".json"):
            yield Path(name), git("show", f"{commit}:./{name}")
