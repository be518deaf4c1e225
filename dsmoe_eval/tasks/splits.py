"""The parts of a suite that a run needs, loaded together and checked for overlaps."""

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
    """Load the identification, tuning and test part, each with its tasks by name.

    If all parts of a task are shares of one split, items that repeat an item of an earlier part are
    left out, since this program draws the shares. `check_leakage` refuses other overlaps.
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
    """Find the overlaps between the splits of a plan, also if the plan allows them."""
    plan, path = load_plan(plan_name)
    splits = load_splits(load_suite(plan.suite, beside=path), None, data)
    return find_leakage(splits, plan.overlap)
