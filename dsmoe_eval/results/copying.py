"""What of a folder is copied: of a run the recorded files and what was rendered of them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..files import seal, to_json
from ..storage import is_url
from ..storage.copies import COPY, Copied, Entry, receive, send
from .folder import RunFolder
from .manifest import MANIFEST

_WORK = {"answers", "claims", "workers", "manifest-parts", "logs", "merged"}
"""Folders of a run that its end removes, or that only the processes at work on it read."""


def copy(source: str, target: str, console: Console) -> Copied:
    """Copy a folder to a URL, or what is at a URL to a folder; either may be both.

    Args:
        source: a run's folder, finished or not; a report, a gate's output, or any folder.
        target: a folder or URL, new or with an earlier copy.
        console: shows the progress.

    Raises:
        UserError: a file is not what the run wrote, source or target cannot be used, or the target
            has other files.
    """
    if not is_url(source):
        to = target if is_url(target) else f"file://{Path(target).absolute()}"
        return send(entries(Path(source)), to, console)
    if not is_url(target):
        return receive(source, Path(target), console)
    with tempfile.TemporaryDirectory(prefix="dsmoe-eval-") as between:
        receive(source, Path(between), console)
        return send(entries(Path(between)), target, console)


def entries(folder: Path) -> dict[str, Entry]:
    """Return path in the folder -> file, of each file to be copied.

    Of a run, also where another process works on it, these are the files that its manifest
    records, and those that no run records, such as a report; of a finished run all are checked.

    Raises:
        UserError: there is none, a link is among them, or a finished run's file is not what the
            run wrote.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; give the folder of a run or a report")
    found = dict(_entries(folder, ""))
    if not found:
        raise UserError(f"{folder}: has no file to copy; check the path")
    return found


def _entries(folder: Path, prefix: str) -> Iterator[tuple[str, Entry]]:
    run = RunFolder(folder)
    is_run = run.manifest.is_file()
    known = dict(_recorded(run)) if is_run else {}
    left_out = {COPY, MANIFEST, *_WORK, *(name.partition("/")[0] for name in known)}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (path.name in left_out and is_run):
            continue
        if path.is_symlink():
            raise UserError(f"{path}: is a link, which is not copied; remove it")
        if path.is_dir():
            yield from _entries(path, f"{prefix}{path.name}/")
        elif path.is_file() and path.name != COPY:
            yield prefix + path.name, Entry.of(path)
    for name, sha256 in known.items():
        path = folder / name
        if path.is_file():
            yield prefix + name, Entry(path, sha256, path.stat().st_size)
    if is_run:
        content = to_json(seal(known)).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        yield prefix + MANIFEST, Entry(content, sha256, len(content))


def _recorded(run: RunFolder) -> Mapping[str, str]:
    """Return what a finished run records, which is checked; of another run what is there."""
    known = run.recorded()
    if run.comparisons.is_file():
        run.check()
        return known
    return {name: sha256 for name, sha256 in known.items() if (run.root / name).is_file()}
