"""What the folder of a run has, as far as `status` needs it; no file is hashed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import UserError
from ..files import LOCK, damage, read_json
from ..results.folder import RunFolder
from ..results.manifest import TWICE

BEGINS, ENDS = "run begins", "run ends"
_WORDS = tuple(word.encode() for word in (BEGINS, ENDS, TWICE))
_LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class Events:
    """What a log says of a run.

    Attributes:
        cells: the number of all cells by its last start; None if it does not say.
        ended: whether its last start came to its end.
        twice: the number of cells that another worker had answered before.
    """

    cells: int | None
    ended: bool
    twice: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What the folder of a run has.

    Attributes:
        begun: whether it has the identity of a run.
        finished: whether it has the results that its plan asks for.
        compared: whether it has the comparisons.
        cells: the number of complete cells.
        recorded: the number of cells in the manifest; None without one.
        events: what each log says, by the name of its file.
        owner: the process that has locked the folder for a whole run, such as `process 12 on host`;
            None if there is none, as far as it can be known.
    """

    begun: bool
    finished: bool
    compared: bool
    cells: int
    recorded: int | None
    events: Mapping[str, Events]
    owner: str | None


def read_contents(root: Path) -> Contents:
    """Read what the folder of a run has; what appears or disappears meanwhile does no harm.

    Raises:
        UserError: a file is damaged.
    """
    folder = RunFolder(root)
    compared = folder.comparisons.is_file()
    finished = compared and (folder.stability.is_file() or not _plans_stability(folder))
    names = _names(root / "cells")
    recorded = _recorded(folder) if finished else None
    cells = recorded if names is None else len(names)  # None: a copy without its cells
    return Contents(
        begun=folder.identity.is_file(),
        finished=finished,
        compared=compared,
        cells=cells or 0,
        recorded=recorded,
        events={path.name: found for path in _logs(root) if (found := _events_of(path))},
        owner=_owner(root),
    )


def model_of(root: Path) -> str:
    """Return the name of the model of a run; of one that has not begun that of its folder."""
    with suppress(FileNotFoundError):
        content = _json(root / "run.json")
        if isinstance(content, dict) and isinstance(name := content.get("model"), str):
            return name
    return root.resolve().name


def last_lines(root: Path, worker: str) -> tuple[str, ...]:
    """Return the last lines of a worker's log, as text for people."""
    for path in (RunFolder(root, worker).log, RunFolder(root).log):
        with suppress(OSError):
            return tuple(map(_line, path.read_bytes().splitlines()[-_LAST_LINES:]))
    return ()


def _plans_stability(folder: RunFolder) -> bool:
    content = _json(folder.identity)
    with damage(folder.identity):
        return content is not None and bool(
            _object(_object(content).get("plan", {})).get("stability")
        )


def _recorded(folder: RunFolder) -> int | None:
    """Return the number of cells in the manifest of a finished run."""
    content = _json(folder.manifest)
    if content is None:
        return None
    with damage(folder.manifest):
        names = [name.split("/") for name in _object(_object(content)["content"])]
        return len({name[1] for name in names if name[0] == "cells"})


def _json(path: Path) -> object:
    """Return the content of a JSON file; None if it is not there.

    Raises:
        UserError: it is damaged, or cannot be read.
    """
    try:
        content: object = read_json(path)
    except UserError:
        if path.exists():
            raise
        return None
    return content


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value


def _names(folder: Path) -> set[str] | None:
    """Return the names in a folder, without drafts; None if it is not there."""
    try:
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return None


def _logs(root: Path) -> list[Path]:
    folder = root / "logs"
    names = sorted(name for name in _names(folder) or () if name.endswith(".jsonl"))
    return [root / "log.jsonl", *(folder / name for name in names)]


def _events_of(path: Path) -> Events | None:
    try:
        about = path.stat()
        return _events(path, about.st_ino, about.st_size)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=256)
def _events(path: Path, _inode: int, _size: int) -> Events:
    """Read a log, once as long as it does not grow."""
    cells, ended, twice = None, False, 0
    for line in path.read_bytes().splitlines():
        if not any(word in line for word in _WORDS) or (record := _record(line)) is None:
            continue
        if record.message == BEGINS:
            known = record.fields.get("cells")
            cells, ended = known if isinstance(known, int) else None, False
        elif record.message == ENDS:
            ended = True
        elif record.message == TWICE:
            twice += str(record.fields.get("part")).startswith("cells/")
    return Events(cells, ended, twice)


@dataclass(frozen=True, slots=True)
class _Record:
    time: str
    stage: str
    message: str
    fields: Mapping[str, object]


def _record(line: bytes) -> _Record | None:
    """Return a record of a log; None where the line is cut or damaged."""
    with suppress(ValueError, TypeError):
        found = _object(json.loads(line))
        time, stage, message = (str(found.get(key) or "") for key in ("time", "stage", "message"))
        return _Record(time, stage, message, _object(found.get("fields", {})))
    return None


def _line(line: bytes) -> str:
    record = _record(line)
    if record is None:
        return line.decode(errors="replace")
    hidden = ("text",) if record.message == "ended by an error" else ()  # said above
    fields = " ".join(f"{key}={v}" for key, v in record.fields.items() if key not in hidden)
    words = ": ".join(filter(None, (record.stage, record.message)))
    return f"{record.time[11:19]} {words} {fields}".rstrip()


def _owner(root: Path) -> str | None:
    """Return the process that has locked a folder, by what its lock says; a shard is none.

    Whether it still runs is only known on its machine.
    """
    try:
        owner = (root / LOCK).read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return None
    number, _, node = owner.removeprefix("process ").partition(" on ")
    if not (owner.startswith("process ") and number.isdecimal()):
        return None
    if node == socket.gethostname():
        with suppress(PermissionError, OverflowError):  # it runs; it is no number of a process
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return None
    return owner
