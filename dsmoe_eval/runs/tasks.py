"""lm-eval's tasks as items: what is asked, its content hash, and an LM's scores on it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cards import Suite, Task
from ..errors import UserError

QUESTION_COLUMNS = (
    "question", "question_stem", "problem", "query", "goal", "sentence", "input", "text", "prompt",
)  # fmt: skip
CONTEXT_COLUMNS = ("passage", "context", "article", "support")
OPTION_COLUMNS = ("choices", "options")
"""Columns of lm-eval's data sets that hold the question, the passage that it is about and the
options' texts; lower case and capitals are the same for the first two."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question as content.

    Attributes:
        id: hash of question, options and gold; a repeated item has `~1`, `~2` ... appended.
        question: the whole prompt.
        gold: the right answer's text.
        stem: the question without its options and the prompt's frame, as far as the data's columns
            tell them apart; empty where they do not, and the prompt stands for it.
        choices: the options in full, also where `options` are their letters.
    """

    id: str
    question: str
    options: tuple[str, ...]
    gold: str
    stem: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task of the suite on one split, ready to be asked."""

    card: Task
    task: Any
    items: tuple[Item, ...]

    @property
    def version(self) -> str:
        """lm-eval's version of the task."""
        return str(self.task.VERSION)

    @property
    def items_hash(self) -> str:
        """One hash over all items, in order."""
        return hashlib.sha256("".join(item.id for item in self.items).encode()).hexdigest()[:16]

    def answers(self) -> list[tuple[str, str]]:
        """(prompt, right continuation) of every item, as the task joins them."""
        delimiter = self.task.config.target_delimiter
        return [(item.question, delimiter + item.gold) for item in self.items]


def load_tasks(
    suite: Suite, cards: Sequence[Task], split: str, limit: int | None
) -> dict[str, LoadedTask]:
    """Load tasks through lm-eval with `split` as the split that is asked.

    Raises:
        UserError: a task or a split does not exist.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=None if suite.tasks_dir is None else str(suite.tasks_dir),
        include_defaults=suite.tasks_dir is None,
    )
    unknown = [card.name for card in cards if card.name not in manager.all_subtasks]
    if unknown:
        raise UserError(f"suite {suite.name!r}: lm-eval has no task {', '.join(unknown)}")
    with quiet_lm_eval():
        return {card.name: _load(manager, card, split, limit) for card in cards}


def _load(manager: Any, card: Task, split: str, limit: int | None) -> LoadedTask:
    group = {"group": f"{card.name}-{split}", "task": [{"task": card.name, "test_split": split}]}
    try:
        (task,) = manager.load([group])["tasks"].values()
    except KeyError as error:
        if error.args != (split,):
            raise
        raise UserError(f"task {card.name!r} has no split {split!r}") from error
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return LoadedTask(card, task, tuple(_items(task, limit)))


def score_tasks(lm: Any, tasks: Sequence[LoadedTask]) -> dict[str, NDArray[np.int64]]:
    """Item scores, 0 or 1, by lm-eval's own metrics, all tasks in common batches.

    The lean path for tuning, where the same questions are asked many times; `cells.py` has
    lm-eval run the test split itself. Both give the same scores.
    """
    requests: dict[str, list[Any]] = {}
    for task in tasks:
        for request in task.task.instances:
            request.resps, request.filtered_resps = [], {}
            requests.setdefault(request.request_type, []).append(request)
    for kind, members in requests.items():
        for request, answer in zip(members, getattr(lm, kind)(members), strict=True):
            request.resps.append(answer)
    return {task.card.name: _scores(task) for task in tasks}


def _scores(task: LoadedTask) -> NDArray[np.int64]:
    task.task.apply_filters()
    by_document: dict[int, list[Any]] = {}
    for request in sorted(task.task.instances, key=lambda request: (request.doc_id, request.idx)):
        by_document.setdefault(request.doc_id, []).append(request)
    scores = []
    for requests in by_document.values():
        (name,) = requests[0].filtered_resps
        results = [request.filtered_resps[name] for request in requests]
        scores.append(task.task.process_results(requests[0].doc, results)[task.card.metric])
    return as_binary(scores, task.card)


def as_binary(scores: Sequence[float], card: Task) -> NDArray[np.int64]:
    """Item scores as 0 and 1.

    Raises:
        UserError: the metric gives anything else.
    """
    values = np.asarray(scores, dtype=float)
    if not np.isin(values, (0.0, 1.0)).all():
        raise UserError(f"task {card.name!r}: metric {card.metric!r} is not 0 or 1 on every item")
    return values.astype(np.int64)


def _items(task: Any, limit: int | None) -> Iterator[Item]:
    seen: Counter[str] = Counter()
    documents = list(task.eval_docs)[:limit]
    for document in documents:
        question = str(task.doc_to_text(document))
        options, gold = _options_and_gold(task, document)
        content = json.dumps([question, options, gold], ensure_ascii=False)
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        copy = f"~{seen[digest]}" if seen[digest] else ""
        seen[digest] += 1
        stem, choices = _stem(document, question), _choices(document, question, options)
        yield Item(digest + copy, question, tuple(options), gold, stem, choices)


def _options_and_gold(task: Any, document: Any) -> tuple[list[str], str]:
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE != "multiple_choice":
        return [], str(target)
    options = [str(option) for option in task.doc_to_choice(document)]
    return options, options[target] if isinstance(target, int) else str(target)


def _stem(document: Mapping[str, Any], prompt: str) -> str:
    """The first question column that the prompt quotes, behind what it asks about."""
    columns = {name.lower(): value for name, value in document.items() if isinstance(value, str)}

    def quoted(names: Sequence[str]) -> str:
        values = (columns.get(name, "").strip() for name in names)
        return next((value for value in values if value and value in prompt), "")

    question = quoted(QUESTION_COLUMNS)
    return question and f"{quoted(CONTEXT_COLUMNS)} {question}".strip()


def _choices(document: Mapping[str, Any], prompt: str, options: list[str]) -> tuple[str, ...]:
    """What the options say; where only their letters are known, the prompt that holds them."""
    for column in OPTION_COLUMNS:
        value = document.get(column)
        value = value.get("text") if isinstance(value, Mapping) else value
        if isinstance(value, list) and value:
            return tuple(str(choice) for choice in value)
    are_letters = all(len(option.strip(" ().")) == 1 for option in options)
    return (prompt,) if options and are_letters else tuple(options)


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Without lm-eval's bars and notes, which are meant for its own command line."""
    import lm_eval.api.task

    logger, task_module = logging.getLogger("lm_eval"), lm_eval.api.task
    level, tqdm = logger.level, task_module.tqdm
    logger.setLevel(logging.ERROR)
    task_module.tqdm = functools.partial(tqdm, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        task_module.tqdm = tqdm
