"""The items that the splits of a plan share, as a run of the plan reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..registry import load_plan
from ..tasks.identification import suite_text
from ..tasks.leakage import Leakage, find_leakage
from ..tasks.splits import load_splits
from .arms import plan_run


def plan_leakage(plan_name: str, data: Sequence[Path] = ()) -> Leakage:
    """Find the overlaps between the splits of a plan, also if the plan allows them.

    Where a run reads answers of the identification split, these items are compared, too.

    Raises:
        UserError: the plan cannot be run, or its data cannot be read.
    """
    planned = plan_run(*load_plan(plan_name))
    suite = planned.suite
    splits = load_splits(
        suite, None, data, planned.read_targets, answered_text=planned.reads_answers
    )
    text = suite_text(suite, splits["identification"], None)
    return find_leakage(splits | {"identification": text.tasks}, planned.plan.allow_leakage)
