"""Copies of folders, each with a list of its SHA-256 hashes.

The list is written last, so that no reader takes half a copy for a whole one, and all that is read
is checked against it. Until then a list of what has arrived lets a killed copy go on.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from ..errors import UserError
from ..files import cache_folder, new_file
from ..progress import Steps, progress_bar
from .names import show_as
from .remote import BLOCK, MANIFEST, Remote, open_url, pump

COPY = "dsmoe-copy.json"
"""The list of a whole copy: path in the folder -> SHA-256, in the form of a run's manifest."""
PART = "dsmoe-copy.part.json"
"""The list of the files that have arrived, while a copy is unfinished."""

_NOT_READ = re.compile(r"(?:^|/)adapters/")
"""Files that no result is read from; a local copy for reading does without them."""
_THREADS = 8
_EVERY = 5.0
"""Seconds between two lists of what has arrived."""


@dataclass(frozen=True, slots=True)
class Original:
    """A file to be copied: its content or path, and what is expected of it."""

    content: Path | bytes
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Original:
        """Return a file with its present size; what a process appends later is not copied."""
        with _opened(path) as stream:
            size, sha256 = pump(stream, most=path.stat().st_size)
        return cls(path, sha256, size)


@dataclass(frozen=True, slots=True)
class Copied:
    """The outcome of a copy.

    Attributes:
        files: number of files of the copy.
        moved: number of files that were written; the others were there, with the same content.
        size: number of bytes that were written.
        changed: files whose size had changed at the target since an earlier copy; they were written
            again.
    """

    files: int
    moved: int
    size: int
    changed: tuple[str, ...] = ()


def local_copy(url: str, console: Console) -> Path:
    """Copy what is at a URL to the user's cache, for reading, and return its path.

    Args:
        url: a copied folder, or a file or folder in one.
        console: shows the progress.

    Raises:
        UserError: there is no copy, it cannot be read, or a file of it was changed.
    """
    remote, names, inside = _find(open_url(url))
    folder = cache_folder() / "copies" / hashlib.sha256(remote.url.encode()).hexdigest()[:16]
    show_as(folder, remote.url)
    read = {name: sha for name, sha in names.items() if not _NOT_READ.search(name)}
    _receive(remote, read, folder, console, overwrite=True)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in read:
            path.unlink(missing_ok=True)  # of an earlier copy
    return folder / inside


def _find(remote: Remote) -> tuple[Remote, dict[str, str], str]:
    """Return the copied folder that a URL is in, its files, and the rest of the URL's path."""
    place, inside = remote, ""
    while place.name:
        names = _listed(place)
        if names is not None and (not inside or _holds(names, inside)):
            return place, names, inside
        place, inside = place.parent, f"{place.name}/{inside}".rstrip("/")
    raise _no_copy(remote.url)


def _holds(names: Mapping[str, str], inside: str) -> bool:
    return any(f"{name}/".startswith(f"{inside}/") for name in names)


def _no_copy(url: str) -> UserError:
    return UserError(
        f"{url}: there is no copy of a folder, which has {COPY} or {MANIFEST}; check bucket and "
        f"path, or make one: dsmoe-eval copy FOLDER {url}"
    )


def _listed(remote: Remote) -> dict[str, str] | None:
    """Return path -> SHA-256 of a copy, or of a run's manifest; None: there is neither."""
    if (names := remote.read_list(COPY)) is not None:
        return names
    if remote.read(PART) is not None:
        raise UserError(f"{remote.url}: the copy is unfinished; copy the folder there again")
    if (names := remote.read_list(MANIFEST)) is None:
        return None
    return names | {MANIFEST: hashlib.sha256(remote.read(MANIFEST) or b"").hexdigest()}


def receive(url: str, folder: Path, console: Console) -> Copied:
    """Copy what is at a URL to a folder; started again after a fault, it goes on.

    Raises:
        UserError: there is no copy, it cannot be read, a file of it was changed, or the folder has
            another file of the same name.
    """
    remote = open_url(url)
    names = _listed(remote)
    if names is None:
        raise _no_copy(url)
    return _receive(remote, names, folder, console)


def _receive(
    remote: Remote, names: Mapping[str, str], folder: Path, console: Console,
    overwrite: bool = False,
) -> Copied:  # fmt: skip
    todo = [name for name, sha in names.items() if not _has(folder / name, sha)]
    for name in todo:
        if not overwrite and (folder / name).exists():
            raise UserError(
                f"{folder / name}: is another file than {remote.url}/{name}; give another folder"
            )

    def get(name: str) -> int:
        with new_file(folder / name) as target, remote.source(name) as source:
            size, found = pump(source, target)
            _check_received(remote, name, found == names[name])
        return size

    with progress_bar(console, "copy", len(names), "files") as steps:
        steps.skip(len(names) - len(todo))
        moved = sum(size for _, size in _each(get, todo, steps))
    return Copied(len(names), len(todo), moved)


def _check_received(remote: Remote, name: str, same: bool) -> None:
    if not same:
        raise UserError(
            f"{remote.url}/{name}: is not the file that was copied there, or is being replaced "
            "just now; start again, and if it remains, remove that file and copy the folder there "
            "again"
        )


def _has(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return pump(stream)[1] == sha256


def send(originals: Mapping[str, Original], url: str, console: Console) -> Copied:
    """Copy those files to a URL that are not there yet; a killed copy goes on.

    Args:
        originals: path in the folder -> file.
        url: of the folder.
        console: shows the progress.

    Raises:
        UserError: at the URL are other files, it cannot be written, or a file is not what is
            expected of it.
    """
    remote = open_url(url)
    sizes = remote.sizes()
    before = {name: remote.read_list(name) or {} for name in (COPY, PART) if name in sizes}
    known = before.get(COPY, {}) | before.get(PART, {})
    _check_target(originals, sizes, known, url)
    same = {name: sha for name, sha in known.items() if originals[name].sha256 == sha}
    done = {name: sha for name, sha in same.items() if sizes.get(name) == originals[name].size}
    todo = [name for name in originals if name not in done]
    moved = 0
    if todo or before.keys() != {COPY}:
        remote.write_list(PART, done)
        with progress_bar(console, "copy", len(originals), "files") as steps:
            steps.skip(len(done))
            moved = _send(remote, {name: originals[name] for name in todo}, done, steps)
        remote.write_list(COPY, done)
        remote.remove(PART)
    return Copied(len(originals), len(todo), moved, tuple(name for name in todo if name in same))


def _check_target(
    originals: Mapping[str, Original], sizes: Mapping[str, int], known: Mapping[str, str], url: str
) -> None:
    if sizes and not {COPY, PART} & sizes.keys():
        raise UserError(
            f"{url}: has files that `copy` did not write, such as {min(sizes)}; give another URL"
        )
    for name in sorted(known):
        if name not in originals:
            raise UserError(
                f"{url}/{name}: is not in the folder to be copied, so there is the copy of another "
                "one, or of a later state of this one; give another URL"
            )
        if name.rpartition("/")[2] == "run.json" and originals[name].sha256 != known[name]:
            raise UserError(f"{url}/{name}: is of another run; give another URL")


def _send(
    remote: Remote, originals: Mapping[str, Original], done: dict[str, str], steps: Steps
) -> int:
    """Send files and add them to `done`, which is kept at the URL; return the bytes sent."""
    moved, kept = 0, time.monotonic()
    sent = _each(lambda name: _put(remote, name, originals[name]), [*originals], steps)
    try:
        with closing(sent):
            for name, size in sent:
                done[name] = originals[name].sha256
                moved += size
                if time.monotonic() - kept > _EVERY:
                    remote.write_list(PART, done)
                    kept = time.monotonic()
    except BaseException:
        with suppress(Exception):  # the error says why it may fail
            remote.write_list(PART, done)
        raise
    return moved


def _put(remote: Remote, name: str, original: Original) -> int:
    """Write a file, if it is what is expected; return its size in bytes."""
    with _opened(original.content) as source:
        if original.size <= BLOCK:
            content = source.read(original.size)
            _check_sent(original, hashlib.sha256(content).hexdigest())
            remote.write(name, content)
        else:
            with remote.sink(name) as sink:
                _check_sent(original, pump(source, sink, original.size)[1])
    return original.size


def _opened(content: Path | bytes) -> BinaryIO:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    try:
        return content.open("rb")
    except FileNotFoundError:
        raise _changed(content) from None


def _check_sent(original: Original, sha256: str) -> None:
    if sha256 != original.sha256:
        raise _changed(original.content)


def _changed(content: Path | bytes) -> UserError:
    return UserError(
        f"{content!s:.300}: was changed while it was copied, or is not the file of the run's "
        f"{MANIFEST}; start the same command again, and if it remains, restore the file"
    )


def _each(
    work: Callable[[str], int], names: Sequence[str], steps: Steps
) -> Generator[tuple[str, int]]:
    """Call a function on each name, in threads, on manifests last; yield names and results."""
    manifests = [name for name in names if name.rpartition("/")[2] == MANIFEST]
    others = [name for name in names if name.rpartition("/")[2] != MANIFEST]
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for group in (others, manifests):
                for name, size in zip(group, pool.map(work, group), strict=True):
                    steps(1)
                    yield name, size
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
