"""What of a folder is copied: of a run the recorded files and what was rendered of them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..files import seal, to_json
from ..storage import is_url
from ..storage.copies import COPY, Copied, Original, receive, send
from .folder import LEASES, WORKERS, RunFolder
from .manifest import MANIFEST, PARTS

_WORK = {"answers", LEASES, WORKERS, PARTS, "logs", "merged"}
"""Folders of a run that its end removes, or that only the processes at work on it read."""
_WHOLE = {"cells", "adapters"}
"""Folders of which all files are recorded together."""


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
        return send(originals(Path(source)), to, console)
    if not is_url(target):
        return receive(source, Path(target), console)
    with tempfile.TemporaryDirectory(prefix="dsmoe-eval-") as between:
        receive(source, Path(between), console)
        return send(originals(Path(between)), target, console)


def originals(folder: Path) -> dict[str, Original]:
    """Return path in the folder -> file, of each file to be copied.

    Of a run, also where another process works on it, these are the files that its manifest
    records, and those that no run records, such as a report; of a finished run all are checked.

    Raises:
        UserError: there is none, a link is among them, or a finished run's file is not what the
            run wrote.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; give the folder of a run or a report")
    found = dict(_originals(folder, ""))
    if not found:
        raise UserError(f"{folder}: has no file to copy; check the path")
    return found


def _originals(folder: Path, prefix: str) -> Iterator[tuple[str, Original]]:
    run = RunFolder(folder)
    if run.manifest.is_file() or run.identity.is_file():
        yield from _of_run(run, prefix)
        return
    for path in _inside(folder, {COPY}):
        if path.is_dir():
            yield from _originals(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name, Original.of(path)


def _of_run(run: RunFolder, prefix: str) -> Iterator[tuple[str, Original]]:
    known = _recorded(run)
    for path in _files(run.root, {COPY, MANIFEST, *_WORK, *_WHOLE}):
        if (name := path.relative_to(run.root).as_posix()) not in known:
            yield prefix + name, Original.of(path)
    for name, sha256 in known.items():
        path = run.root / name
        if path.is_file():
            yield prefix + name, Original(path, sha256, path.stat().st_size)
    content = to_json(seal(known)).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    yield prefix + MANIFEST, Original(content, sha256, len(content))


def _recorded(run: RunFolder) -> dict[str, str]:
    """Return what a finished run records, which is checked; of another run what is there."""
    known = dict(run.recorded())
    if run.comparisons.is_file():
        run.check()
        return known
    return {name: sha256 for name, sha256 in known.items() if (run.root / name).is_file()}


def _files(folder: Path, leave: AbstractSet[str] = frozenset()) -> Iterator[Path]:
    for path in _inside(folder, leave):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _inside(folder: Path, leave: AbstractSet[str]) -> Iterator[Path]:
    """Yield the files and folders of a folder but hidden ones and those with some names."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in leave:
            continue
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise UserError(f"{path}: is a link or a device, which is not copied; remove it")
        yield path
