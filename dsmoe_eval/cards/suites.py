"""Suites: tasks that belong together, and the splits that their items come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

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


Role = Literal["target", "non-target", "identification"]
Part = Annotated[str, Field(pattern=r"^[\w.-]+(\[\d{1,2}:(\d{1,2}|100)\])?$")]
Pattern = Annotated[str, AfterValidator(_pattern)]
PartName = Literal["identification", "tuning", "test"]


def read_part(part: str) -> tuple[str, range | None]:
    """Parse a part into its split and the range of hundredths; None for the whole split."""
    split, mark, share = part.partition("[")
    return split, range(*map(int, share.rstrip("]").split(":"))) if mark else None


class Splits(Card):
    """The splits that a task's items come from, per part of a run; parts must not share items.

    A part is a split of the data set, `test`, or a share of one, `test[0:10]`: the items whose
    question's hash modulo 100 is in that range, so that equal questions are in the same share.

    Attributes:
        identification: the identification text; None if the task has none.
        tuning: the tuning items; None if the task is not used in tuning.
        test: the items of the reported results.
    """

    identification: Part | None = None
    tuning: Part | None = None
    test: Part


class Task(Card):
    """One lm-eval task in a suite.

    Attributes:
        name: the task's name in lm-eval.
        domain: the subject of its items.
        roles: `target`: steering for its domain should help here. `non-target`: steering for
            another domain must not hurt here. `identification`: the domain's experts are
            identified on its identification split.
        metric: the metric of lm-eval that is the item's score, 0 or 1.
        inspect: the Inspect task with the same questions, as given on Inspect's command line; its
            prompts and its answer extraction differ.
        filter: the filter of lm-eval that extracts the answer, if the task has several.
        splits: the task's splits, if they differ from the suite's.
        few_shot: number of few-shot examples; None: the number of the lm-eval task.
        answer_tokens: the most tokens of an answer; None: the limit of the lm-eval task.
        samples: answers per item, drawn at `temperature` and `top_p`; the item's score is their
            mean. For tasks with few items.
        valid: a regular expression that matches an answer from which the task's code can extract
            a result; for tasks whose filters do not report it. An empty answer is never valid.
        key: the column of the data that groups items into shares and clusters, instead of the
            question: one question in two languages, or questions on one text, have equal values.
        shuffles: whether the task shuffles an item's options when it is loaded; each item is then
            loaded with a seed from its content.
        items: number of items in the published test split, for planning without the data.
        data: the data set's name on the hub, for readers.
        licence: the licence of the data.
        gated: whether the hub requires its terms to be accepted first.
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
            raise ValueError(f"task {self.name!r}: samples and top_p need a temperature")
        return self

    @property
    def decoding(self) -> str:
        """The decoding settings in words, a part of a cell's identity."""
        if self.temperature is None:
            return "greedy"
        top_p = "" if self.top_p is None else f", top-p {self.top_p:g}"
        return f"{self.samples} samples at temperature {self.temperature:g}{top_p}"


class Suite(Card):
    """Target and non-target tasks that belong together.

    Attributes:
        markers: tokens whose routing the method `npmi` uses, with their coefficients; RICE uses
            `<think>` 1, `</think>` -1 and `Alternatively` -1 on the model's reasoning.
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
        """Return the task of that name."""
        (task,) = (task for task in self.tasks if task.name == name)
        return task

    def part(self, task: Task, part: PartName) -> str | None:
        """Return the split, or share of a split, of a task's part; None if it has none."""
        splits = task.splits or self.splits
        return str(getattr(splits, part)) if getattr(splits, part) else None

    def is_shared(self, name: str) -> bool:
        """Return whether all parts of a task are shares of one split, drawn by content."""
        task = self.task(name)
        parts = [self.part(task, part) for part in get_args(PartName)]
        given = [read_part(part) for part in parts if part is not None]
        return all(share is not None for _, share in given) and len({s for s, _ in given}) == 1

    @property
    def targets(self) -> tuple[str, ...]:
        """The domains that can be steered for, in the order of the card."""
        return tuple(task.domain for task in self.tasks if "target" in task.roles)

    @property
    def identification_tasks(self) -> tuple[Task, ...]:
        """The tasks whose identification split is used."""
        return tuple(task for task in self.tasks if "identification" in task.roles)

    @property
    def identification_domains(self) -> tuple[str, ...]:
        """The domains whose text is compared when experts are identified."""
        return tuple(task.domain for task in self.identification_tasks)

    def target_task(self, domain: str) -> Task:
        """Return the task on which steering for `domain` should help."""
        return next(t for t in self.tasks if t.domain == domain and "target" in t.roles)

    def non_target_tasks(self, domain: str) -> tuple[Task, ...]:
        """Return the non-target tasks of all other domains, which steering must not hurt."""
        return tuple(t for t in self.tasks if "non-target" in t.roles and t.domain != domain)

    def tasks_for(self, domain: str) -> tuple[Task, ...]:
        """Return all tasks that an arm steered for `domain` answers."""
        return (self.target_task(domain), *self.non_target_tasks(domain))
