"""A finished run, read again: complete and valid by `schema.RunResult`, or an error."""

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
from ..storage import shown
from ..variants import get_variant
from .arms import Arm
from .folder import RunFolder
from .foretold import check_foretold
from .schema import SCHEMA_VERSION, RunResult
from .stability import StabilityResult

Key = tuple[str, str]
"""The key of an arm: its variant and target."""


@dataclass(frozen=True)
class FinishedRun:
    """A run's result and its origin.

    Attributes:
        name: the path or name from which the result was read.
        result: the content of its `comparisons.json`.
        folder: the run's folder, with its cells; None where there is only the result.
    """

    name: str
    result: RunResult
    folder: RunFolder | None = None

    @cached_property
    def arms(self) -> Mapping[Key, Arm]:
        """The arms by variant and target: every variant of the run on every target."""
        return {(arm.variant, arm.target): arm for arm in self.result.arms}

    @cached_property
    def stability(self) -> StabilityResult | None:
        """The content of the run's `stability.json`; None of a plan without `stability`.

        Raises:
            UserError: it does not fit the schema, or is missing although the plan has `stability`.
        """
        folder = self.folder
        if folder is None:
            return None
        if not folder.has(folder.stability):
            known = folder.read_json(folder.identity) if folder.identity.is_file() else {}
            if known.get("plan", {}).get("stability"):
                raise UserError(
                    f"{folder.root} has no stability.json, which its plan asks for; start the run "
                    "again to finish it"
                )
            return None
        with sound(f"{folder.stability}"):
            return StabilityResult.model_validate_json(folder.read(folder.stability))

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants but base, in the order of the plan."""
        return tuple(get_variant(name) for name in self.result.variants)


def read_finished(path: Path) -> FinishedRun:
    """Read a run's result, from its folder or its `comparisons.json`.

    The files of a run's folder are checked against its manifest first.

    Raises:
        UserError: the result is missing, damaged, of another version, or does not fit the schema,
            or a file of the folder is not what the run wrote.
    """
    file = path / "comparisons.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} has no comparisons.json; finish the run first")
    folder, name = RunFolder(file.parent), shown(str(path))
    if not folder.has_cells:
        return as_finished(read_json(file), name)
    folder.check()
    found = as_finished(folder.read_json(file), name, folder)
    check_foretold(folder, found.result.foretold)
    return found


def as_finished(data: object, name: str, folder: RunFolder | None = None) -> FinishedRun:
    """Return the run whose `comparisons.json` has this content.

    Raises:
        UserError: it is of another version, or does not fit the schema; the message names the first
            fault.
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
    """Turn the faults that pydantic finds in a result into one sentence.

    Raises:
        UserError: a model refuses its content; the message names the first fault.
    """
    try:
        yield
    except ValidationError as error:
        where, words = first_fault(error)
        place = f"{name}: {where}" if where else name
        raise UserError(f"{place}: {words}; run it again") from error


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return the location and the message of pydantic's first fault, and the number of others."""
    faults = error.errors(include_url=False, include_input=False)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    words = faults[0]["msg"].removeprefix("Value error, ")
    return ".".join(map(str, faults[0]["loc"])), f"{words}{more}"
