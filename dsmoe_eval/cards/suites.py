"""Suites: tasks that belong together, and where their items come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from .base import Card, Count, Name

MAX_NEW_TOKENS = 256
"""Where a task does not say how much may be generated, as lm-eval's `hf`."""


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression ({error})") from error
    return value


Role = Literal["target", "non-target", "identification"]
Part = Annotated[str, Field(pattern=r"^[\w.-]+(\[\d{1,2}:(\d{1,2}|100)\])?$")]
Pattern = Annotated[str, AfterValidator(_pattern)]
PartName = Literal["identification", "tuning", "test"]


def read_part(part: str) -> tuple[str, range | None]:
    """A part's split, and which hundredths of it; None where it is the whole split."""
    split, mark, share = part.partition("[")
    return split, range(*map(int, share.rstrip("]").split(":"))) if mark else None


class Splits(Card):
    """Where a task's items come from, by part of a run; an item in two parts is refused.

    A part is a split of the data set, `test`, or a share of one, `test[0:10]`: the items whose
    question's hash modulo 100 is in that range, so that what asks the same is in one share.

    Attributes:
        identification: None where the task gives no identification text.
        tuning: None where the task has no items to spare; it is then not asked in tuning.
        test: what is reported.
    """

    identification: Part | None = None
    tuning: Part | None = None
    test: Part


class Task(Card):
    """One lm-eval task in a suite.

    Attributes:
        name: lm-eval's own name of the task.
        domain: the subject that its items belong to.
        roles: `target`: steering for its domain should help here. `non-target`: steering for
            another domain must not hurt here. `identification`: its identification split is the
            text from which the domain's experts are found.
        metric: lm-eval's metric that is the item's score, 0 or 1.
        inspect: Inspect's own task of the same questions, as its command line takes it; it asks and
            extracts in its own way.
        filter: which of lm-eval's filters extracts the answer, where the task has several.
        splits: where not those of the suite.
        few_shot: examples before the question; None leaves the task's own number.
        answer_tokens: how long an answer may be; None leaves the task's own limit.
        samples: answers to each item, drawn at `temperature` and `top_p`; an item's score is their
            mean. For tasks with few items.
        valid: what an answer holds in which the task's own code finds one, a regular expression;
            for tasks whose filters do not tell. An empty answer never is valid.
        key: column of the data by whose value, and not by the question, items go to shares and
            clusters: what is one question in two languages, or asked about one text, has one value.
        shuffles: the task orders an item's options by chance when it is loaded; each item is then
            loaded with a seed of its own content.
        items: of the whole test split as published, for plans made before the data are there.
        data: the hub's name of the data set, for people.
        licence: of the data.
        gated: the hub wants its terms accepted first.
    """

    name: Name
    domain: Name
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    metric: Literal["acc", "acc_norm", "exact_match", "prompt_level_strict_acc"]
    inspect: Annotated[str, Field(pattern=r"^\w+/\w+( -T \S.*)?$")] | None = None
    filter: str | None = None
    splits: Splits | None = None
    few_shot: Annotated[int, Field(ge=0)] | None = None
    answer_tokens: Count | None = None
    samples: Count = 1
    temperature: Annotated[float, Field(gt=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    valid: Pattern | None = None
    key: str | None = None
    shuffles: bool = False
    items: Count | None = None
    data: str | None = None
    licence: str | None = None
    gated: bool = False

    @model_validator(mode="after")
    def _check(self) -> Task:
        if self.temperature is None and (self.samples > 1 or self.top_p is not None):
            raise ValueError(f"task {self.name!r}: samples and top_p want a temperature")
        return self

    @property
    def decoding(self) -> str:
        """For a cell's identity."""
        if self.temperature is None:
            return "greedy"
        top_p = "" if self.top_p is None else f", top-p {self.top_p:g}"
        return f"{self.samples} samples at temperature {self.temperature:g}{top_p}"


class Suite(Card):
    """Target and non-target tasks that belong together.

    Attributes:
        markers: tokens whose routing the method `npmi` looks at, with their coefficients; RICE has
            `<think>` 1, `</think>` -1 and `Alternatively` -1 on a model's own reasoning.
    """

    name: Name
    description: str
    tasks_dir: Path | None = None
    markers: dict[str, float] = Field(default_factory=dict)
    splits: Splits
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Suite:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("a task is listed twice")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("a domain has two target tasks")
        for domain in self.targets:
            if domain not in self.identification_domains:
                raise ValueError(f"target domain {domain!r} has no identification task")
            if not self.non_target_tasks(domain):
                raise ValueError(f"target domain {domain!r} has no non-target task")
            if not self.part(self.target_task(domain), "tuning"):
                raise ValueError(f"target domain {domain!r} has no tuning split")
            if not any(self.part(task, "tuning") for task in self.non_target_tasks(domain)):
                raise ValueError(f"target domain {domain!r}: no non-target task has a tuning split")
        for task in self.identification_tasks:
            if not self.part(task, "identification"):
                raise ValueError(f"task {task.name!r} has no identification split")
        return self

    def task(self, name: str) -> Task:
        """By its name."""
        (task,) = (task for task in self.tasks if task.name == name)
        return task

    def part(self, task: Task, part: PartName) -> str | None:
        """The split, or share of one, from which a task's items of that part come."""
        splits = task.splits or self.splits
        return str(getattr(splits, part)) if getattr(splits, part) else None

    def is_shared(self, name: str) -> bool:
        """Whether all parts of a task are shares of one split, drawn by content."""
        task = self.task(name)
        parts = [self.part(task, part) for part in get_args(PartName)]
        given = [read_part(part) for part in parts if part is not None]
        return all(share is not None for _, share in given) and len({s for s, _ in given}) == 1

    @property
    def targets(self) -> tuple[str, ...]:
        """Domains that can be steered for, in the order of the card."""
        return tuple(task.domain for task in self.tasks if "target" in task.roles)

    @property
    def identification_tasks(self) -> tuple[Task, ...]:
        """Tasks whose identification split is read."""
        return tuple(task for task in self.tasks if "identification" in task.roles)

    @property
    def identification_domains(self) -> tuple[str, ...]:
        """Domains whose text is compared when experts are identified."""
        return tuple(task.domain for task in self.identification_tasks)

    def target_task(self, domain: str) -> Task:
        """The task on which steering for `domain` should help."""
        return next(t for t in self.tasks if t.domain == domain and "target" in t.roles)

    def non_target_tasks(self, domain: str) -> tuple[Task, ...]:
        """The tasks on which steering for `domain` must not hurt: those of every other domain."""
        return tuple(t for t in self.tasks if "non-target" in t.roles and t.domain != domain)

    def tasks_for(self, domain: str) -> tuple[Task, ...]:
        """All tasks that an arm steered for `domain` answers."""
        return (self.target_task(domain), *self.non_target_tasks(domain))
