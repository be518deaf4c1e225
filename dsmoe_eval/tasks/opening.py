"""lm-eval's tasks, made from their YAML files with one split of their data."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..cards import Task
from ..errors import QuotingError, UserError, one_line, out_of_memory
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
    except ImportError as error:
        raise UnreadableTaskError(
            f"task {card.name!r} cannot be loaded: {error}; install that package"
        ) from error
    except _data_errors() as error:
        raise UnreadableTaskError(_unreadable(card, error)) from error
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (split,):
            raise UserError(
                f"task {card.name!r} has no split {split!r} in its data; name another in the "
                "suite, under splits"
            ) from error
        if _is_said(error):
            raise
        raise _task_error(card, error) from error


@contextmanager
def task_code(card: Task) -> Iterator[None]:
    """Turn what a task's file raises on its data, in templates and functions, into one sentence.

    Raises:
        UserError: something was raised other than a lack of memory.
    """
    try:
        yield
    except Exception as error:
        if _is_said(error):
            raise
        raise _task_error(card, error) from error


def _is_said(error: Exception) -> bool:
    return isinstance(error, UserError) or out_of_memory(error)


def _task_error(card: Task, error: Exception) -> QuotingError:
    return QuotingError(
        f"task {card.name!r}: its lm-eval YAML file fails on its data "
        f"({type(error).__name__}: {one_line(error)}); mend the file or the data"
    )


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
    raise UserError(f"task {card.name!r}: its lm-eval YAML file lacks {needed}; add it")


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
    way = "check the network, or give local files by --data"
    if card.gated:
        way = (
            f"the data are gated: accept the terms at https://huggingface.co/datasets/{card.data} "
            "and set HF_TOKEN, or give your own copy by --data"
        )
    return f"task {card.name!r}: its data cannot be read ({one_line(error)}); {way}"
