"""Identification text: the questions of a suite's tasks, or chunks of text documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cards import DocumentFile, Suite, Task
from ..errors import UserError
from ..registry import load_suite
from .items import Item, WithItems, digest
from .loading import load_tasks
from .texts import (
    CHUNKS,
    TextDocument,
    cut_text,
    documents_by_domain,
    read_text_file,
    read_text_folder,
)


@dataclass(frozen=True, slots=True)
class TextTask:
    """The text documents of one domain as a task that is only read.

    Attributes:
        card: the card of such a task.
        items: the chunks; the cluster of a chunk is the hash of its document.
    """

    card: Task
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class TextSource:
    """Text documents of the user.

    Attributes:
        name: name of the file or folder.
        chunks: the most chunks of a document that are read, its first ones.
    """

    name: str
    documents: tuple[TextDocument, ...]
    chunks: int = CHUNKS


@dataclass(frozen=True, slots=True)
class IdentificationText:
    """The text from which experts are identified.

    Attributes:
        source: the suite or file, for messages and reports.
        tasks: tasks or `TextTask`s by name; of those without the role `identification` only the
            influence on right answers is computed, and the questions are not counted.
        suite: the suite; None if the text is the user's alone.
        file: name of the file of text documents; None if all text is questions.
        split: the split of the suite's tasks or documents, in words.
        chunks: the most chunks that are read of each document of the user's; None: as the suite
            says.
    """

    source: str
    tasks: Mapping[str, WithItems]
    suite: Suite | None
    file: str | None
    split: str | None
    chunks: int | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the text, in the order of first appearance."""
        return tuple(dict.fromkeys(task.card.domain for task in self.tasks.values()))

    @property
    def about(self) -> dict[str, str | int | None]:
        """The names of the suite and of the file, and how much is read of it, for results."""
        suite = None if self.suite is None else self.suite.name
        names: dict[str, str | int | None] = {"suite": suite, "file": self.file}
        return names if self.chunks is None else {**names, "chunks": self.chunks}

    def ids(self, domain: str) -> tuple[str, ...]:
        """Return the ids of a domain's questions, and the hashes of its documents."""
        return tuple(
            dict.fromkeys(
                item.cluster if isinstance(task, TextTask) else item.id
                for task in read_tasks(self.tasks)
                if task.card.domain == domain
                for item in task.items
            )
        )


def text_source(
    suite: str | None, file: Path | None, folder: Path | None, chunks: int | None = None
) -> str | TextSource:
    """Return the suite's name, or the documents of the file or folder; exactly one is given.

    Args:
        suite: a suite's name or path.
        file: a file of text documents.
        folder: a folder of text documents.
        chunks: the most chunks of a document that are read; None: `CHUNKS`. Not for a suite.

    Raises:
        UserError: not exactly one is given, or the documents cannot be read.
    """
    if sum(one is not None for one in (suite, file, folder)) != 1:
        raise UserError("give the text by --suite, --text or --text-dir, one of the three")
    if file is not None:
        return TextSource(file.name, read_text_file(file), chunks or CHUNKS)
    if folder is not None:
        return TextSource(folder.resolve().name, read_text_folder(folder), chunks or CHUNKS)
    if chunks is not None:
        raise UserError(
            "--chunks is for --text and --text-dir; a suite says `chunks:` in its `documents:`"
        )
    return str(suite)


def identification_text(
    source: str | TextSource,
    limit: int | None = None,
    data: Sequence[Path] = (),
    answered: bool = False,
) -> IdentificationText:
    """Load the identification text of a suite, or of text documents.

    Args:
        source: a suite's name or path, or text documents.
        limit: the most items per task, or documents per domain; None: all.
        data: folders with the data sets; if empty, they come from the hub.
        answered: whether the targets' questions are there, too, whose right answers are read.

    Raises:
        UserError: the suite or its text cannot be read.
    """
    if isinstance(source, TextSource):
        lengths = DocumentFile(file=Path(source.name), chunks=source.chunks)
        tasks = text_tasks(source.documents, limit, lengths)
        return IdentificationText(source.name, tasks, None, source.name, None, source.chunks)
    suite = load_suite(source)
    cards = suite.identification_tasks + (suite.only_answered if answered else ())
    return suite_text(suite, load_tasks(suite, cards, "identification", limit, data), limit)


def suite_text(
    suite: Suite, tasks: Mapping[str, WithItems], limit: int | None
) -> IdentificationText:
    """Return a suite's identification text: that of its tasks, and its documents.

    Raises:
        UserError: the documents cannot be read, or lack a target domain.
    """
    given = suite.documents
    return IdentificationText(
        source=f"suite {suite.name}",
        tasks={**tasks, **document_tasks(suite, limit)},
        suite=suite,
        file=None if given is None else given.file.name,
        split=str(suite.splits.identification or "by task") if given is None else given.split,
    )


def document_tasks(suite: Suite, limit: int | None) -> dict[str, TextTask]:
    """Read the documents that a suite names; none if it names no file.

    Raises:
        UserError: the file cannot be read, or has no document of a target domain.
    """
    given = suite.documents
    if given is None:
        return {}
    chosen = [
        one for one in read_text_file(given.file) if given.split is None or one.split == given.split
    ]
    there = {one.domain for one in chosen} | {*suite.identification_domains}
    for domain in suite.targets:
        if domain not in there:
            of_split = "" if given.split is None else f" whose `split` is {given.split!r}"
            raise UserError(
                f"{given.file}: no document of the target domain {domain!r}{of_split}; it has: "
                f"{', '.join(sorted(there)) or 'none'}"
            )
    return text_tasks(chosen, limit, given)


def text_tasks(
    documents: Sequence[TextDocument], limit: int | None, given: DocumentFile
) -> dict[str, TextTask]:
    """Split documents into chunks, as tasks by name, one per domain.

    Args:
        documents: the documents.
        limit: the most documents per domain; None: all.
        given: the length of a chunk, and how many are read of a document.
    """
    tasks = {}
    for domain, members in documents_by_domain(documents).items():
        name = f"documents-{domain}"
        card = Task(name=name, domain=domain, roles=("identification",))
        tasks[name] = TextTask(card, tuple(
            chunk for one in members[:limit] for chunk in _chunks(one, given)
        ))  # fmt: skip
    return tasks


def _chunks(document: TextDocument, given: DocumentFile) -> list[Item]:
    chunks = cut_text(document.text, given.characters)[: given.chunks]
    return [Item(digest(one, [], ""), one, (), "", cluster=document.id) for one in chunks]


def read_tasks(tasks: Mapping[str, WithItems]) -> list[WithItems]:
    """Return the tasks whose questions are identification text."""
    return [task for task in tasks.values() if "identification" in task.card.roles]


def domain_texts(tasks: Mapping[str, WithItems]) -> dict[str, list[str]]:
    """Return the tasks' questions without answers, and the chunks of documents, by domain."""
    return {name: [item.question for _, item in pairs] for name, pairs in _pairs(tasks).items()}


def domain_groups(tasks: Mapping[str, WithItems]) -> dict[str, list[str]]:
    """Return the document of each text of `domain_texts`; empty if the text is a question."""
    return {
        name: [item.cluster if isinstance(task, TextTask) else "" for task, item in pairs]
        for name, pairs in _pairs(tasks).items()
    }


def _pairs(tasks: Mapping[str, WithItems]) -> dict[str, list[tuple[WithItems, Item]]]:
    by: dict[str, list[tuple[WithItems, Item]]] = {}
    for task in read_tasks(tasks):
        by.setdefault(task.card.domain, []).extend((task, item) for item in task.items)
    return by
