"""The parts of a suite that a run needs, loaded together and held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..cards import Suite
from ..registry import load_plan, load_suite
from .leakage import Leakage, find_leakage
from .loading import LoadedTask, load_tasks, without


def load_splits(
    suite: Suite, limit: int | None, data: Sequence[Path] = ()
) -> dict[str, dict[str, LoadedTask]]:
    """Identification, tuning and test part, each with its tasks by name.

    Where all parts are shares of one split, an item that repeats one of an earlier part is left
    out: the shares are ours to draw. What else overlaps is for `check_leakage` to refuse.
    """
    parts = {
        "identification": load_tasks(
            suite, suite.identification_tasks, "identification", limit, data
        ),
        "tuning": load_tasks(suite, suite.tasks, "tuning", limit, data),
        "test": load_tasks(suite, suite.tasks, "test", limit, data),
    }
    shared = {task.name for task in suite.tasks if suite.is_shared(task.name)}
    if not shared:
        return parts
    repeated: dict[tuple[str, str], set[str]] = {}
    for one in find_leakage(parts).overlaps:
        if {one.task, one.other_task} <= shared:
            repeated.setdefault((one.split, one.task), set()).add(one.item)
    for (part, task), ids in repeated.items():
        parts[part][task] = without(parts[part][task], ids)
    return parts


def plan_leakage(plan_name: str, data: Sequence[Path] = ()) -> Leakage:
    """What overlaps between the splits of a plan, whether the plan allows it or not."""
    plan, path = load_plan(plan_name)
    splits = load_splits(load_suite(plan.suite, beside=path), None, data)
    return find_leakage(splits, plan.overlap)
