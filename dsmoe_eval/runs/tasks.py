"""lm-eval's tasks as items: what is asked, its content hash, and an LM's scores on it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cards import PartName, Suite, Task, read_part
from ..engines.lm import MAX_NEW_TOKENS
from ..errors import UserError
from .local_data import local_data
from .wording import letters, normalise

QUESTION_COLUMNS = (
    "question", "question_stem", "problem", "query", "goal", "sentence", "input", "text", "prompt",
)  # fmt: skip
CONTEXT_COLUMNS = ("passage", "context", "article", "support")
OPTION_COLUMNS = ("choices", "options")
"""Columns of lm-eval's data sets that hold the question, the passage that it is about and the
options' texts; lower case and capitals are the same for the first two."""
ANSWER_TOKENS_A_LIMIT = 8
"""A rehearsal with `limit` items a task lets answers have so many times as many tokens: those of a
model that does not think would else take all of its time."""


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
    suite: Suite, cards: Sequence[Task], part: PartName, limit: int | None
) -> dict[str, LoadedTask]:
    """Load through lm-eval the items that are a part of a run, of each task that has any in it.

    The data come from the hub, or from a local folder (see `local_data.py`).

    Raises:
        UserError: a task, its data or a split does not exist or may not be read, or a prompt does
            not show all options of an item.
    """
    manager = _manager(suite.tasks_dir)
    unknown = [card.name for card in cards if card.name not in manager.all_subtasks]
    if unknown:
        raise UserError(f"suite {suite.name!r}: lm-eval has no task {', '.join(unknown)}")
    places = {card.name: suite.part(card, part) for card in cards}
    with quiet_lm_eval(), local_data():
        return {
            card.name: _load(manager, card, place, limit)
            for card in cards
            if (place := places[card.name]) is not None
        }


@functools.cache
def _manager(folder: Path | None) -> Any:
    """lm-eval's index of a suite's own tasks, or of the 14,000 that it brings: that takes long."""
    from lm_eval.tasks import TaskManager

    include = None if folder is None else str(folder)
    return TaskManager(include_path=include, include_defaults=folder is None)


def _load(manager: Any, card: Task, place: str, limit: int | None) -> LoadedTask:
    split, share = read_part(place)
    group = {"group": f"{card.name}-{split}", "task": [{"task": card.name, "test_split": split}]}
    try:
        (task,) = manager.load([group])["tasks"].values()
        documents = _shuffled_by_content(task) if card.shuffles else task.test_docs()
    except KeyError as error:
        if error.args != (split,):
            raise
        raise UserError(f"task {card.name!r} has no split {split!r}") from error
    except _data_errors() as error:
        raise UserError(_unreadable(card, error)) from error
    if card.few_shot is not None:
        task.set_config(key="num_fewshot", value=card.few_shot)
    if task.OUTPUT_TYPE == "generate_until":
        settings = dict(task.config.generation_kwargs or {})
        longest = card.answer_tokens or settings.get("max_gen_toks") or MAX_NEW_TOKENS
        longest = min(longest, (limit or longest) * ANSWER_TOKENS_A_LIMIT)
        task.set_config(key="generation_kwargs", value=settings | {"max_gen_toks": longest})
    items = list(_items(task, documents, limit if share is None else None))
    chosen = list(range(len(items)))
    if share is not None:
        keys = documents[card.key] if card.key else [None] * len(items)
        shares = map(share_of, items, keys)
        chosen = [index for index, one in enumerate(shares) if one in share][:limit]
    for index in chosen:
        _check_options(card, documents[index], items[index])
    return _with_items(card, task, documents, items, chosen)


def _with_items(
    card: Task, task: Any, documents: Any, items: Sequence[Item], chosen: Sequence[int]
) -> LoadedTask:
    """Some documents of a task, in a fixed order: shuffling tasks draw anew at every reading."""
    if not chosen:
        raise UserError(f"task {card.name!r}: no item is left in one of its parts")
    kept = documents.select(chosen)
    task.test_docs = lambda: kept
    task.build_all_requests(limit=len(kept), rank=0, world_size=1)
    return LoadedTask(card, task, tuple(items[index] for index in chosen))


def without(loaded: LoadedTask, ids: Collection[str]) -> LoadedTask:
    """The task without some of its items."""
    chosen = [index for index, item in enumerate(loaded.items) if item.id not in ids]
    return _with_items(loaded.card, loaded.task, loaded.task.test_docs(), loaded.items, chosen)


def share_of(item: Item, key: object = None) -> int:
    """Which hundredth of a split an item is in, from 0 to 99: by its question, or by a key."""
    words = letters(normalise(item.stem or item.question)) if key is None else str(key)
    return int(hashlib.sha256(words.encode()).hexdigest(), 16) % 100


def _shuffled_by_content(task: Any) -> Any:
    """The test documents, each prepared with a seed of its own content.

    Tasks that order options by chance do so with Python's one global generator, so that the order
    would depend on all that ran before.
    """
    import datasets

    raw, prepare = task.dataset[task.config.test_split], task.config.process_docs
    state, prepared = random.getstate(), []
    datasets.disable_caching()  # which would give one order for all that have the same columns
    try:
        for index in range(len(raw)):
            random.seed(json.dumps(raw[index], sort_keys=True, default=str))
            prepared.append(prepare(raw.select([index]))[0])
    finally:
        datasets.enable_caching()
        random.setstate(state)
    return datasets.Dataset.from_list(prepared)


def _data_errors() -> tuple[type[Exception], ...]:
    """What reading a data set of the hub may raise."""
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
        name = task.card.filter or next(iter(requests[0].filtered_resps))
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


def _items(task: Any, documents: Iterable[Any], limit: int | None) -> Iterator[Item]:
    seen: Counter[str] = Counter()
    for document in islice(documents, limit):
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
    return (
        _option_texts(document)
        or ((prompt,) if options and _are_letters(options) else ())
        or tuple(options)
    )


def _option_texts(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The options in full, where a column of the data holds them."""
    for column in OPTION_COLUMNS:
        value = document.get(column)
        value = value.get("text") if isinstance(value, Mapping) else value
        if isinstance(value, list) and value:
            return tuple(str(choice) for choice in value)
    return ()


def _are_letters(options: Sequence[str]) -> bool:
    return all(len(option.strip(" ().")) == 1 for option in options)


def _check_options(card: Task, document: Mapping[str, Any], item: Item) -> None:
    """Raise where the data have options that the prompt, or its letters, leave out."""
    texts = _option_texts(document)
    by_letter = item.options and _are_letters(item.options)
    shown = [text for text in texts if text.strip() in item.question]
    if (by_letter and len(item.options) != len(texts) > 0) or 0 < len(shown) < len(texts):
        raise UserError(
            f"task {card.name!r}: item {item.id} has {len(texts)} options, of which the prompt "
            f"shows {len(item.options) if by_letter else len(shown)}; its letters do not go further"
        )


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Without lm-eval's bars and notes, which are meant for its own command line."""
    import datasets
    import lm_eval.api.task

    logger, task_module = logging.getLogger("lm_eval"), lm_eval.api.task
    level, tqdm = logger.level, task_module.tqdm
    logger.setLevel(logging.ERROR)
    task_module.tqdm = functools.partial(tqdm, disable=True)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
        logger.setLevel(level)
        task_module.tqdm = tqdm
