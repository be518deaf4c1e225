"""lm-eval's tasks, made from their YAML files with one split of their data."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..cards import Task
from ..errors import UserError
from .language_model import LmEvalTask

if TYPE_CHECKING:
    from datasets import Dataset


class UnreadableTaskError(UserError):
    """A task whose data or packages are not available on this machine."""


class TaskManager(Protocol):
    """lm-eval's `TaskManager`."""

    all_subtasks: Collection[str]

    def load(self, specification: Sequence[object]) -> dict[str, dict[str, LmEvalTask]]:
        """Make the specified tasks."""


@functools.cache
def task_manager(folder: Path | None) -> TaskManager:
    """Build lm-eval's index of a suite's task files, or (slow) of the 14,000 tasks of lm-eval."""
    import lm_eval.tasks

    include = None if folder is None else str(folder)
    manager: TaskManager = lm_eval.tasks.TaskManager(
        include_path=include, include_defaults=folder is None
    )
    return manager


def open_task(manager: TaskManager, card: Task, split: str) -> tuple[LmEvalTask, Dataset]:
    """Make lm-eval's task with `split` as its test split; return it and the split's documents."""
    try:
        task = _made(manager, card, split)
        return task, _shuffled_by_content(task) if card.shuffles else task.test_docs()
    except KeyError as error:
        if error.args != (split,):
            raise
        raise UserError(f"task {card.name!r} has no split {split!r}") from error
    except ImportError as error:
        raise UnreadableTaskError(f"task {card.name!r} cannot be loaded: {error}") from error
    except _data_errors() as error:
        raise UnreadableTaskError(_unreadable(card, error)) from error


def _made(manager: TaskManager, card: Task, split: str) -> LmEvalTask:
    """Make lm-eval's task; text that is read for identification alone needs no `doc_to_target`."""
    settings = {"task": card.name, "test_split": split}
    for more in ({},) if card.is_answered else ({}, {"doc_to_target": ""}):
        try:
            group = {"group": f"{card.name}-{split}", "task": [settings | more]}
            (task,) = manager.load([group])["tasks"].values()
            return task
        except TypeError as error:  # lm-eval's only sign of a key that is missing
            if str(error):
                raise
    needed = "doc_to_text and doc_to_target" if card.is_answered else "doc_to_text, its text"
    raise UserError(f"task {card.name!r}: its lm-eval YAML file lacks {needed}")


def _shuffled_by_content(task: LmEvalTask) -> Dataset:
    """Return the test documents, each prepared with a seed derived from its content.

    Tasks that order options at random use Python's global generator, so the order would otherwise
    depend on everything that ran before.
    """
    import datasets

    raw, prepare = task.dataset[task.config.test_split], task.config.process_docs
    state, prepared = random.getstate(), []
    datasets.disable_caching()  # a cache would give all documents with the same columns one order
    try:
        for index in range(len(raw)):
            random.seed(json.dumps(raw[index], sort_keys=True, default=str))
            prepared.append(prepare(raw.select([index]))[0])
    finally:
        datasets.enable_caching()
        random.setstate(state)
    return datasets.Dataset.from_list(prepared)


def _data_errors() -> tuple[type[Exception], ...]:
    """Return the errors that reading a data set of the hub may raise."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    return OSError, DatasetsError, HfHubHTTPError, OfflineModeIsEnabled


def _unreadable(card: Task, error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
    way = "check the network, or give local files by --data"
    if card.gated:
        way = (
            f"the data are gated: accept the terms at https://huggingface.co/datasets/{card.data} "
            "and set HF_TOKEN, or give your own copy by --data"
        )
    return f"task {card.name!r}: its data cannot be read ({reason[:200]}); {way}"
