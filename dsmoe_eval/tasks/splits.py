"""The splits of a suite that a run needs, loaded together and checked for overlaps."""

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
    """Load the identification, tuning and test splits, each with its tasks by name.

    If all splits of a task are buckets of one split of its data, items that repeat an item of an
    earlier one are left out, since this program draws the buckets. `check_leakage` refuses other
    overlaps.
    """
    stages = {
        "identification": load_tasks(
            suite, suite.identification_tasks, "identification", limit, data
        ),
        "tuning": load_tasks(suite, suite.tasks, "tuning", limit, data),
        "test": load_tasks(suite, suite.tasks, "test", limit, data),
    }
    shared = {task.name for task in suite.tasks if suite.is_shared(task.name)}
    if not shared:
        return stages
    repeated: dict[tuple[str, str], set[str]] = {}
    for one in find_leakage(stages).overlaps:
        if {one.task, one.other_task} <= shared:
            repeated.setdefault((one.split, one.task), set()).add(one.item)
    for (stage, task), ids in repeated.items():
        stages[stage][task] = without(stages[stage][task], ids)
    return stages


def plan_leakage(plan_name: str, data: Sequence[Path] = ()) -> Leakage:
    """Find the overlaps between the splits of a plan, also if the plan allows them."""
    plan, path = load_plan(plan_name)
    splits = load_splits(load_suite(plan.suite, beside=path), None, data)
    return find_leakage(splits, plan.allow_leakage)
