"""The declarations that everyone reads: suites, plans, variants. Frozen, and strict about keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["target", "non-target", "identification"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Card(BaseModel):
    """Base of all declarations: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Card):
    """One lm-eval task in a suite.

    Attributes:
        name: lm-eval's own name of the task.
        domain: the subject that its items belong to.
        roles: `target`: steering for its domain should help here. `non-target`: steering for
            another domain must not hurt here. `identification`: its identification split is the
            text from which the domain's experts are found.
        metric: lm-eval's metric that is the item's score, 0 or 1.
    """

    name: Name
    domain: Name
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    metric: Literal["acc", "exact_match"]


class Splits(Card):
    """Names of the data set's splits; no item may be in two of them."""

    identification: str
    tuning: str
    test: str


class Suite(Card):
    """Target and non-target tasks that belong together."""

    name: Name
    description: str
    tasks_dir: Path | None = None
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
        return self

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


class Variant(Card):
    """What is compared with the base model.

    Attributes:
        kind: `base`, `steered` or `sft`.
        method: how a steered variant's experts are scored (see `experts.METHODS`).
        intervention: what is done with them.
        experts: whose experts: the method's `own` best for the target; `matched` random ones;
            those of the `wrong` domain.
        control_of: a control takes the tuned settings of the arm it controls.
        null: strength is forced to zero.
    """

    name: Name
    summary: str
    kind: Literal["base", "steered", "sft"]
    method: str | None = None
    intervention: Literal["reweight", "bias"] | None = None
    experts: Literal["own", "matched", "wrong"] = "own"
    control_of: Name | None = None
    null: bool = False

    @property
    def is_tuned(self) -> bool:
        """True for arms whose number of experts and strength are chosen on the tuning split."""
        return self.kind == "steered" and self.control_of is None


class Tuning(Card):
    """The rule by which settings are chosen, on the tuning split only.

    Every pair of `experts` and a strength is tried; the best target gain wins among those whose
    non-target change on the tuning split is non-inferior at the plan's margin. Ties go to fewer
    experts, then to the lower strength. Where no setting qualifies, the weakest one is used and the
    report says so.
    """

    experts: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    strengths: dict[
        Literal["reweight", "bias"],
        Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)],
    ]


class Sft(Card):
    """Supervised fine-tuning of LoRA adapters on the target's tuning items, answers only."""

    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]


class Plan(Card):
    """What is run: everything is fixed here before a test item is read.

    Attributes:
        margin: non-inferiority margin on pooled non-targets, a fraction of items.
        alpha: two-sided level of target claims; non-inferiority uses alpha / 2, one-sided.
    """

    name: Name
    description: str
    model: str
    suite: Name
    variants: Annotated[tuple[Name, ...], Field(min_length=1)]
    targets: tuple[Name, ...] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_tokens: Annotated[int, Field(ge=1)] = 8192
    margin: Fraction
    alpha: Fraction = 0.05
    tuning: Tuning | None = None
    sft: Sft | None = None

    @model_validator(mode="after")
    def _check(self) -> Plan:
        for names in (self.variants, self.targets or ()):
            if len(set(names)) < len(names):
                raise ValueError(f"a name is listed twice: {', '.join(names)}")
        return self
