"""A finished run, read again: whole and sound by `schema.RunResult`, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from ..cards import Variant
from ..errors import UserError
from ..files import read_json
from ..variants import get_variant
from .arms import Arm
from .folder import RunFolder
from .schema import SCHEMA_VERSION, RunResult

Key = tuple[str, str]
"""Of an arm: variant, target."""


@dataclass(frozen=True)
class FinishedRun:
    """A run's result, and where it is from.

    Attributes:
        name: where it came from.
        result: the content of its `comparisons.json`.
        folder: of the run, with its cells; None where the result stands alone.
    """

    name: str
    result: RunResult
    folder: RunFolder | None = None

    @cached_property
    def arms(self) -> Mapping[Key, Arm]:
        """By variant and target; every variant of the run on every target."""
        return {(arm.variant, arm.target): arm for arm in self.result.arms}

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All but base, in the order of the plan."""
        return tuple(get_variant(name) for name in self.result.variants)


def read_finished(path: Path) -> FinishedRun:
    """Read a run's result, from its folder or its `comparisons.json`.

    The files of a run's folder are checked against its manifest first.

    Raises:
        UserError: it is not there, damaged, of another version, or not of the schema, or a file of
            the folder is not what the run wrote.
    """
    file = path / "comparisons.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} has no comparisons.json; finish the run first")
    folder = RunFolder(file.parent)
    if not folder.has_cells:
        return as_finished(read_json(file), str(path))
    folder.check()
    return as_finished(folder.read_json(file), str(path), folder)


def as_finished(data: object, name: str, folder: RunFolder | None = None) -> FinishedRun:
    """Return the run whose `comparisons.json` holds this.

    Raises:
        UserError: it is of another version, or not of the schema; names the first fault.
    """
    version = data.get("schema_version") if isinstance(data, Mapping) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{name}: comparisons.json is of another version (schema {version!r:.20}, this one "
            f"reads {SCHEMA_VERSION}); run it again"
        )
    with sound(f"{name}: comparisons.json"):
        return FinishedRun(name, RunResult.model_validate_json(json.dumps(data)), folder)


@contextmanager
def sound(name: str) -> Iterator[None]:
    """Turn what is wrong with a result into one sentence.

    Raises:
        UserError: a model is made of something that it refuses; names the first fault.
    """
    try:
        yield
    except ValidationError as error:
        where, words = first_fault(error)
        place = f"{name}: {where}" if where else name
        raise UserError(f"{place}: {words}; run it again") from error


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return where and what, of the first of pydantic's complaints, and how many more there are."""
    faults = error.errors(include_url=False, include_input=False)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    words = faults[0]["msg"].removeprefix("Value error, ")
    return ".".join(map(str, faults[0]["loc"])), f"{words}{more}"
