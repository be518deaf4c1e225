"""The extensions that Inspect loads from this package; heavy imports are deferred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.model import modelapi

from .cards import StageSplit


@modelapi(name="dsmoe")  # type: ignore[untyped-decorator]  # checked without Inspect too
def dsmoe() -> Any:
    """Return the provider of `--model dsmoe/NAME -M profile=PATH`."""
    from .adapters.inspect_provider import DsmoeAPI

    return DsmoeAPI


@task  # type: ignore[untyped-decorator]
def suite_task(suite: str, name: str, part: StageSplit = "test", data: str | None = None) -> Task:
    """Load one generative task of a suite.

    Usage: `inspect eval dsmoe_eval/suite_task -T suite=S -T name=T`.

    Args:
        suite: name or path of a suite.
        name: name of one of the suite's tasks.
        part: part of the task's items: `test`, `tuning` or `identification`.
        data: a folder with the task's data set; None: load it from the hub.
    """
    from .adapters.inspect_task import inspect_task
    from .errors import UserError
    from .registry import load_suite
    from .tasks.loading import load_tasks

    loaded = load_suite(suite)
    cards = [card for card in loaded.tasks if card.name == name]
    if not cards:
        raise UserError(f"suite {suite!r} has no task {name!r}")
    found = load_tasks(loaded, cards[:1], part, None, () if data is None else (Path(data),))
    if name not in found:
        raise UserError(f"task {name!r} has no items for {part} in suite {suite!r}")
    return inspect_task(found[name])
