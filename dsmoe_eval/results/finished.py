"""A finished run, read again: its outline is whole, or it is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cards import Variant
from ..errors import UserError
from ..files import read_json
from ..variants import get_variant
from .comparisons import SCHEMA_VERSION
from .folder import RunFolder

Key = tuple[str, str]
"""Of an arm: variant, target."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """The content of a run's `comparisons.json`, whole in its outline.

    Attributes:
        name: where it came from.
        data: the content.
        arms: by variant and target; every variant of the run on every target.
        folder: of the run, with its cells; None where the file stands alone.
    """

    name: str
    data: Mapping[str, Any]
    arms: Mapping[Key, Mapping[str, Any]]
    folder: RunFolder | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All but base, in the order of the plan."""
        return tuple(get_variant(name) for name in self.data["variants"])

    @property
    def targets(self) -> tuple[str, ...]:
        """In the order of the plan."""
        return tuple(self.data["targets"])


def read_finished(path: Path) -> FinishedRun:
    """A run's result, from its folder or its `comparisons.json`.

    Raises:
        UserError: it is not there, damaged, of another version, or lacks an arm or a domain.
    """
    file = path / "comparisons.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} has no comparisons.json; finish the run first")
    try:
        data = read_json(file)
    except RecursionError as error:
        raise UserError(f"{file}: damaged JSON (too deep); run it again") from error
    folder = RunFolder(file.parent) if (file.parent / "cells").is_dir() else None
    return as_finished(data, str(path), folder)


def as_finished(data: Any, name: str, folder: RunFolder | None = None) -> FinishedRun:
    """Check the outline of a result: every arm of the plan, and every domain of an arm, once.

    Raises:
        UserError: something is missing, doubled or of another type.
    """
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        version = data.get("schema_version") if isinstance(data, dict) else None
        raise UserError(
            f"{name}: comparisons.json is of another version (schema {version!r:.20}, this one "
            f"reads {SCHEMA_VERSION}); run it again"
        )
    variants, targets = (_names(data, key, name) for key in ("variants", "targets"))
    for variant in variants:
        get_variant(variant)
    expected = {(variant, target) for variant in variants for target in targets}
    rows = data.get("arms")
    arms: dict[Key, Mapping[str, Any]] = {}
    for row in rows if isinstance(rows, list) else ():
        key = _key(row)
        if key not in expected or key in arms:
            raise UserError(f"{name}: arm {key!r:.100} is not one of the run's, or is there twice")
        _check_domains(row, name, key)
        arms[key] = row
    missing = sorted(expected - set(arms))
    if missing or not expected:
        raise UserError(f"{name}: lacks the arm {' on '.join(missing[0]) if missing else ''}")
    if not isinstance(data.get("run"), dict):
        raise UserError(f"{name}: 'run' is missing or damaged; run it again")
    return FinishedRun(name, data, arms, folder)


def _names(data: Mapping[str, Any], key: str, name: str) -> list[str]:
    names = data.get(key)
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names) or not names:
        raise UserError(f"{name}: {key!r} is missing or damaged; run it again")
    return names


def _key(row: Any) -> Key:
    if not isinstance(row, dict):
        return "", ""
    return str(row.get("variant")), str(row.get("target"))


def _check_domains(row: Mapping[str, Any], name: str, key: Key) -> None:
    """An arm answered its target's task and one task for each of its rows of domains."""
    cells, domains = row.get("cells"), row.get("domains")
    if isinstance(cells, dict) and isinstance(domains, list):
        tasks = [one.get("task") if isinstance(one, dict) else None for one in domains]
        known = all(isinstance(task, str) and task in cells for task in tasks)
        if tasks and known and len(set(tasks)) == len(tasks) == len(cells) - 1:
            return
    raise UserError(f"{name}: the domains of arm {' on '.join(key)} are not those that it answered")
