"""Suites: tasks that belong together, and the splits that their items come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from .base import Card, Count, Name

MAX_NEW_TOKENS = 256
"""The limit on generated tokens for tasks that set none, as in lm-eval's `hf` model."""


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression ({error})") from error
    return value


Role = Literal["target", "non-target", "text", "identification"]
SplitName = Annotated[str, Field(pattern=r"^[\w.-]+$")]
Pattern = Annotated[str, AfterValidator(_pattern)]
StageSplit = Literal["identification", "tuning", "test"]
BUCKETS = 100
"""The number of buckets into which the items of a split fall by the hash of their question."""


class Split(Card):
    """A split of a data set, or the items of one that fall into a range of buckets.

    The bucket of an item is the hash of its question modulo 100, so that equal questions are in
    the same bucket. In YAML a split without buckets is written as its name alone.

    Attributes:
        split: the name of the split in the data set.
        buckets: first bucket and end: `[0, 10]` are the buckets 0 to 9, a tenth of the items;
            None: all items.
    """

    split: SplitName
    buckets: tuple[int, int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, content: object) -> object:
        if not isinstance(content, str):
            return content
        if "[" in content:
            split, _, share = content.partition("[")
            share = share.rstrip("]").replace(":", ", ")
            raise ValueError(f"`{content}` is now written {{split: {split}, buckets: [{share}]}}")
        return {"split": content}

    @model_validator(mode="after")
    def _check(self) -> Split:
        if self.buckets is not None and not 0 <= self.buckets[0] < self.buckets[1] <= BUCKETS:
            raise ValueError("buckets: give [FIRST, END] with 0 <= FIRST < END <= 100")
        return self

    @property
    def share(self) -> float:
        """The share of the split's items that is expected in the buckets."""
        return 1.0 if self.buckets is None else (self.buckets[1] - self.buckets[0]) / BUCKETS

    def __str__(self) -> str:
        if self.buckets is None:
            return self.split
        return f"{self.split} (buckets {self.buckets[0]} to {self.buckets[1] - 1})"


class Splits(Card):
    """The splits that a task's items come from, per stage of a run; stages must not share items.

    Attributes:
        identification: the identification text; None if the task has none.
        tuning: the tuning items; None if the task is not used in tuning.
        test: the items of the reported results; None for text that only serves identification.
    """

    identification: Split | None = None
    tuning: Split | None = None
    test: Split | None = None


class Task(Card):
    """One lm-eval task in a suite.

    Attributes:
        name: the task's name in lm-eval.
        domain: the subject of its items.
        roles: `target`: steering for its domain should help here. `non-target`: steering for
            another domain must not hurt here. `text`: unseen text, whose bits per byte base and
            every arm compute. `identification`: the domain's experts are identified on its
            identification split.
        metric: the metric of lm-eval that is the item's score, 0 or 1; `bits_per_byte` of a task
            with the role `text`; none if the only role is `identification`.
        inspect: the Inspect task with the same questions, as given on Inspect's command line; its
            prompts and its answer extraction differ.
        filter: the filter of lm-eval that extracts the answer, if the task has several.
        splits: the task's splits, if they differ from the suite's.
        few_shot: number of few-shot examples; None: the number of the lm-eval task.
        answer_tokens: the most tokens of an answer; None: the limit of the lm-eval task.
        samples: answers per item, drawn at `temperature` and `top_p`; the item's score is their
            mean. For tasks with few items.
        answer_pattern: a regular expression that matches an answer from which the task's code can
            extract a result; for tasks whose filters do not report it. An empty answer is never
            valid.
        group_column: the column of the data that groups items into buckets and clusters, instead of
            the question: one question in two languages, or questions on one text, have equal
            values.
        shuffles: whether the task shuffles an item's options when it is loaded; each item is then
            loaded with a seed from its content.
        items: number of items in the published test split, for planning without the data.
        data: the data set's name on the hub, for readers.
        licence: the licence of the data.
        gated: whether the hub requires its terms to be accepted first.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"valid": "`answer_pattern`", "key": "`group_column`"}

    name: Name
    domain: Name
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    metric: Literal[
        "acc", "acc_norm", "exact_match", "prompt_level_strict_acc", "bits_per_byte", "none"
    ] = "none"
    inspect: Annotated[str, Field(pattern=r"^\w+/\w+( -T \S.*)?$")] | None = None
    filter: str | None = None
    splits: Splits | None = None
    few_shot: Annotated[int, Field(ge=0)] | None = None
    answer_tokens: Count | None = None
    samples: Count = 1
    temperature: Annotated[float, Field(gt=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    answer_pattern: Pattern | None = None
    group_column: str | None = None
    shuffles: bool = False
    items: Count | None = None
    data: str | None = None
    licence: str | None = None
    gated: bool = False

    @model_validator(mode="after")
    def _check(self) -> Task:
        if self.temperature is None and (self.samples > 1 or self.top_p is not None):
            raise ValueError(f"task {self.name!r}: samples and top_p need a temperature")
        if self.is_answered and self.metric == "none":
            raise ValueError(f"task {self.name!r}: a target or non-target task needs a metric")
        if self.is_text and {"target", "non-target"} & set(self.roles):
            raise ValueError(
                f"task {self.name!r}: the role text goes with no other than identification"
            )
        if self.is_text != (self.metric == "bits_per_byte"):
            raise ValueError(
                f"task {self.name!r}: `metric: bits_per_byte` and the role text go together"
            )
        if self.is_text and self.samples > 1:
            raise ValueError(f"task {self.name!r}: text is scored once; leave out samples")
        return self

    @property
    def is_text(self) -> bool:
        """Whether the likelihood of its texts is computed, instead of answers to questions."""
        return "text" in self.roles

    @property
    def is_answered(self) -> bool:
        """Whether its items are answered and scored, and not only read for identification."""
        return set(self.roles) != {"identification"}


class DocumentFile(Card):
    """A file of text documents, from which experts are identified.

    In YAML a file without other keys is written as its path alone.

    Attributes:
        file: JSON lines with `text` and `domain`, relative to the suite's file.
        split: the documents whose key `split` has this value serve identification; None: all.
        characters: the most characters of a chunk, see `tasks.texts.cut_text`.
        chunks: the most chunks of a document, its first ones; None: all.
    """

    file: Path
    split: SplitName | None = None
    characters: Annotated[int, Field(ge=20)] = 500
    chunks: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, content: object) -> object:
        return {"file": content} if isinstance(content, str) else content


class Suite(Card):
    """Target and non-target tasks that belong together.

    Attributes:
        documents: text documents from which experts are identified, beside or instead of tasks with
            the role `identification`.
        markers: tokens whose routing the method `npmi` uses, with their coefficients; RICE uses
            `<think>` 1, `</think>` -1 and `Alternatively` -1 on the model's reasoning.
        domain_line: the line before a question by which the arm `prompt` names the domain.
        wordings: lines that may precede a question and do not change its meaning: by how much
            they move scores is the noise of the prompt's wording.
    """

    name: Name
    description: str
    tasks_dir: Path | None = None
    documents: DocumentFile | None = None
    markers: dict[str, float] = Field(default_factory=dict)
    domain_line: str = "The following question is about {domain}."
    wordings: tuple[str, ...] = ("Answer the following question.", "Give the right answer.")
    splits: Splits
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Suite:
        faults = [*self._task_faults(), *(f for t in self.targets for f in self._target_faults(t))]
        if faults:
            raise ValueError("; ".join(dict.fromkeys(faults)))
        return self

    def _task_faults(self) -> Iterator[str]:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            yield "a task is listed twice"
        if len(set(self.targets)) < len(self.targets):
            yield "a domain has two target tasks"
        for task in self.tasks:
            if task.is_answered and not self.stage_split(task, "test"):
                yield f"task {task.name!r} has no test split"
            if "identification" in task.roles and not self.stage_split(task, "identification"):
                yield f"task {task.name!r} has no identification split"

    def _target_faults(self, domain: str) -> Iterator[str]:
        if domain not in self.identification_domains and self.documents is None:
            yield f"target domain {domain!r} has no identification task, nor `documents`"
        if not self.stage_split(self.target_task(domain), "tuning"):
            yield f"target domain {domain!r} has no tuning split"
        if not self.non_target_tasks(domain):
            yield f"target domain {domain!r} has no non-target task"
        elif not any(self.stage_split(task, "tuning") for task in self.non_target_tasks(domain)):
            yield f"target domain {domain!r}: no non-target task has a tuning split"

    def task(self, name: str) -> Task:
        """Return the task of that name."""
        (task,) = (task for task in self.tasks if task.name == name)
        return task

    def stage_split(self, task: Task, stage: StageSplit) -> Split | None:
        """Return the split that a stage of a run takes from a task; None if its roles need none."""
        if stage == "tuning" and task.is_text:
            return None
        if not ("identification" in task.roles if stage == "identification" else task.is_answered):
            return None
        split: Split | None = getattr(task.splits or self.splits, stage)
        return split

    def is_shared(self, name: str) -> bool:
        """Return whether all stages take buckets of one split of a task, drawn by content."""
        task = self.task(name)
        splits = [self.stage_split(task, stage) for stage in get_args(StageSplit)]
        given = [split for split in splits if split is not None]
        return all(split.buckets for split in given) and len({split.split for split in given}) == 1

    @property
    def targets(self) -> tuple[str, ...]:
        """The domains that can be steered for, in the order of the card."""
        return tuple(task.domain for task in self.tasks if "target" in task.roles)

    @property
    def only_answered(self) -> tuple[Task, ...]:
        """The targets with an identification split whose questions are no identification text."""
        return tuple(
            task
            for task in self.tasks
            if "target" in task.roles
            and "identification" not in task.roles
            and self.answered_split(task) is not None
        )

    def answered_split(self, task: Task) -> Split | None:
        """Return the identification split of a task, also if its questions are not read there."""
        return (task.splits or self.splits).identification

    @property
    def identification_tasks(self) -> tuple[Task, ...]:
        """The tasks whose identification split is used."""
        return tuple(task for task in self.tasks if "identification" in task.roles)

    @property
    def identification_domains(self) -> tuple[str, ...]:
        """The domains whose tasks are read when experts are identified; documents have more."""
        return tuple(task.domain for task in self.identification_tasks)

    def target_task(self, domain: str) -> Task:
        """Return the task on which steering for `domain` should help."""
        return next(t for t in self.tasks if t.domain == domain and "target" in t.roles)

    def non_target_tasks(self, domain: str) -> tuple[Task, ...]:
        """Return the non-target tasks of all other domains, which steering must not hurt."""
        return tuple(t for t in self.tasks if "non-target" in t.roles and t.domain != domain)

    @property
    def text_tasks(self) -> tuple[Task, ...]:
        """The tasks of unseen text, which base and every arm read."""
        return tuple(task for task in self.tasks if task.is_text)

    def tasks_for(self, domain: str) -> tuple[Task, ...]:
        """Return all tasks that an arm steered for `domain` answers, the target's first."""
        return (self.target_task(domain), *self.non_target_tasks(domain), *self.text_tasks)

    def answered_tasks(self, domains: Iterable[str]) -> tuple[Task, ...]:
        """Return all tasks that the arms steered for `domains` answer, in the order of the card."""
        needed = {task.name for domain in domains for task in self.tasks_for(domain)}
        return tuple(task for task in self.tasks if task.name in needed)
