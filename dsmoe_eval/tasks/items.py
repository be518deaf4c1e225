"""Items: the questions of a task, identified by content; the same question is the same item."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from ..errors import UserError
from .language_model import LmEvalTask
from .text_normalization import letters, normalise

if TYPE_CHECKING:
    from ..cards import Task

Document = Mapping[str, object]
"""A row of a data set."""
QUESTION_COLUMNS = (
    "question", "question_stem", "problem", "query", "goal", "sentence", "sent1", "input", "text",
    "prompt",
)  # fmt: skip
CONTEXT_COLUMNS = ("passage", "context", "article", "support")
OPTION_COLUMNS = ("choices", "options")
"""Columns of lm-eval's data sets with the question, its passage and the options' texts; the first
two are matched regardless of case."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question, identified by its content.

    Attributes:
        id: hash of question, options and gold; a repeated item has `~1`, `~2` ... appended.
        question: the whole prompt.
        options: the texts that are scored; empty for generated answers.
        gold: text of the right answer.
        stem: the question without its options and the prompt's frame, if the data's columns
            separate them; else empty, and the prompt is used instead.
        choices: the options in full, also if `options` are their letters.
        cluster: hash of the question's wording, or of the task's key: items that share it are not
            independent of one another.
        rights: indices in `options` of the right ones, by lm-eval's rule; empty where none is
            among them.
    """

    id: str
    question: str
    options: tuple[str, ...]
    gold: str
    stem: str = ""
    choices: tuple[str, ...] = ()
    cluster: str = ""
    rights: tuple[int, ...] = ()


class WithItems(Protocol):
    """A task with the items of one split."""

    @property
    def card(self) -> Task:
        """The suite's card of the task."""

    @property
    def items(self) -> tuple[Item, ...]:
        """The items, in order."""


def read_items(
    task: LmEvalTask, documents: Iterable[Document], limit: int | None, key: str | None = None
) -> Iterator[Item]:
    """Yield the items of an lm-eval task's documents; `key` is the column of `Task.key`."""
    seen: Counter[str] = Counter()
    for document in islice(documents, limit):
        question = str(task.doc_to_text(document))
        options, gold = _options_and_gold(task, document)
        if not question and task.OUTPUT_TYPE == "loglikelihood_rolling":
            question, gold = gold, ""  # lm-eval's form of plain text
        content = digest(question, options, gold)
        copy = f"~{seen[content]}" if seen[content] else ""
        seen[content] += 1
        stem, choices = quoted_stem(document, question), _choices(document, question, options)
        if key is not None and key not in document:
            raise UserError(f"no column {key!r}; give `group_column` one of {', '.join(document)}")
        cluster = wording_of(stem or question) if key is None else _hash(str(document[key]))
        yield Item(
            content + copy, question, tuple(options), gold, stem, choices, cluster,
            _rights(task, document, options),
        )  # fmt: skip


def digest(*parts: object) -> str:
    """Return 16 hex digits of SHA-256 over JSON; for (question, options, gold), `Item.id`."""
    return _hash(json.dumps(parts, ensure_ascii=False, default=str))


def wording_of(question: str) -> str:
    """Return the `Item.cluster` of a question: a hash without case, punctuation and spaces."""
    return _hash(letters(normalise(question)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _options_and_gold(task: LmEvalTask, document: Document) -> tuple[list[str], str]:
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE != "multiple_choice":
        return [], str(target)
    options = [str(option) for option in task.doc_to_choice(document)]
    return options, options[target] if isinstance(target, int) else str(target)


def _rights(task: LmEvalTask, document: Document, options: list[str]) -> tuple[int, ...]:
    """Return the indices of the right options as `process_results` of lm-eval reads them."""
    if not options:
        return ()
    several = getattr(task, "multiple_input", 0)  # then the contexts are the options
    target = task.doc_to_text(document) if several else task.doc_to_target(document)
    if isinstance(target, str):
        target = options.index(target) if target in options else -1
    named = target if isinstance(target, list) else [target]
    known = [one for one in named if isinstance(one, int) and 0 <= one < len(options)]
    return tuple(sorted(set(known))) if len(known) == len(named) else ()


def quoted_stem(document: Document, prompt: str) -> str:
    """Return the first question column that the prompt quotes, preceded by its passage."""
    columns = {name.lower(): value for name, value in document.items() if isinstance(value, str)}

    def quoted(names: Sequence[str]) -> str:
        values = (columns.get(name, "").strip() for name in names)
        return next((value for value in values if value and value in prompt), "")

    question = quoted(QUESTION_COLUMNS)
    return question and f"{quoted(CONTEXT_COLUMNS)} {question}".strip()


def _choices(document: Document, prompt: str, options: list[str]) -> tuple[str, ...]:
    """Return the options' texts; if only their letters are known, the prompt that shows them."""
    return (
        _option_texts(document)
        or ((prompt,) if options and _are_letters(options) else ())
        or tuple(options)
    )


def _option_texts(document: Document) -> tuple[str, ...]:
    """Return the options in full from a column of the data; empty if there is none."""
    for column in OPTION_COLUMNS:
        value = document.get(column)
        value = value.get("text") if isinstance(value, Mapping) else value
        if isinstance(value, list) and value:
            return tuple(str(choice) for choice in value)
    return ()


def _are_letters(options: Sequence[str]) -> bool:
    return all(len(option.strip(" ().")) == 1 for option in options)


def check_options(card: Task, document: Document, item: Item) -> None:
    """Check that the prompt and its letters show all options of the data.

    Raises:
        UserError: some options are left out.
    """
    texts = _option_texts(document)
    if item.options and (not _are_letters(item.options) or _alike(item.options, texts)):
        return  # the texts are scored, and a question may mention some of them
    shown = sum(text.strip() in item.question for text in texts)
    scored = len(item.options) or len(texts)
    known = min(scored, shown or len(texts)) if scored <= len(texts) else scored
    if texts and known != len(texts):
        raise UserError(
            f"task {card.name!r}: item {item.id} has {len(texts)} options, of which the prompt "
            f"shows {known}; its letters do not go further: give doc_to_choice more"
        )


def _alike(options: Sequence[str], texts: Sequence[str]) -> bool:
    return [one.strip() for one in options] == [text.strip() for text in texts]


def bucket_of(item: Item) -> int:
    """Return the hundredth of a split, from 0 to 99, to which an item's cluster belongs."""
    return int(item.cluster, 16) % 100
