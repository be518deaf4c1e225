"""The splits of a suite that a run needs, loaded together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..cards import StageSplit, Suite, Task
from .leakage import find_leakage
from .loading import LoadedTask, load_tasks, without
from .opening import UnreadableTaskError


def load_splits(
    suite: Suite,
    limit: int | None,
    data: Sequence[Path] = (),
    targets: Sequence[str] = (),
    unread: dict[str, str] | None = None,
    answered_text: bool = False,
) -> dict[str, dict[str, LoadedTask]]:
    """Load the identification, tuning and test splits, each with its tasks by name.

    Only what a run uses is loaded, and so compared by `check_leakage`: the identification tasks,
    and the tasks that an arm answers.

    If all splits of a task are buckets of one split of its data, items that repeat an item of an
    earlier one are left out, since this program draws the buckets. `check_leakage` refuses other
    overlaps.

    Args:
        suite: the suite.
        limit: the largest number of items per task and split; None: all items.
        data: folders with the data sets; if empty, they come from the hub.
        targets: the domains that are steered for; if empty, all of the suite.
        unread: if given, a task that cannot be read on this machine is left out, and the reason is
            kept here by its data set's name.
        answered_text: whether the targets' items of the identification split are loaded, too; see
            `identification_text`.

    Raises:
        UserError: as `load_tasks`.
    """

    def load(cards: Sequence[Task], stage: StageSplit) -> dict[str, LoadedTask]:
        if unread is None:
            return load_tasks(suite, cards, stage, limit, data)
        found: dict[str, LoadedTask] = {}
        for card in cards:
            try:
                if data_name(card) not in unread:
                    found |= load_tasks(suite, [card], stage, limit, data)
            except UnreadableTaskError as error:  # a hub that does not answer is asked once
                unread[data_name(card)] = str(error)
        return found

    answered = suite.answered_tasks(targets or suite.targets)
    known = suite.only_answered if answered_text else ()
    chosen = tuple(card for card in known if not targets or card.domain in targets)
    stages = {
        "identification": load(suite.identification_tasks + chosen, "identification"),
        "tuning": load(answered, "tuning"),
        "test": load(answered, "test"),
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


def data_name(card: Task) -> str:
    """Return the name of a task's data set, or of the task if its card names none."""
    return card.data or card.name
