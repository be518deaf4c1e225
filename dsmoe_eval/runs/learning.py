"""The learned profiles of a run: shifts of all experts, learned on the target's tuning items."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..cards import ExpertSource, Learned
from ..engines.base import pass_identity
from ..errors import UserError
from ..experts import OutcomeItem, PlainText, RoutingCounts, ShiftObjective
from ..experts.batching import frozen
from ..experts.passes import pass_folder
from ..log import note
from ..progress import Steps
from ..results.terms import Information
from ..steering import Profile
from ..tasks.items import WithItems
from ..variants import build_learned_profile, shift_ranges, sigmas_of
from ..variants.learning import (
    LEARNED_FILES,
    LearnedShifts,
    Lesson,
    choose_weight,
    learn_shifts,
    read_learned,
    write_learned,
)
from .arms import PlannedArm, PreparedArm
from .identification import identification_source, read_documents
from .influence import gaining
from .job import Job
from .leases import Piece
from .outcome_items import outcome_items
from .profiles import keep_profile


@dataclass(frozen=True, slots=True)
class Course:
    """What is learned once, whichever arms use it.

    Attributes:
        domain: the domain whose texts may change, and whose answers are learned from.
        source: `method`, `shuffled_answers` or `all_domains`.
    """

    domain: str
    source: ExpertSource

    @property
    def name(self) -> str:
        """The name of its folder, of its lease and in the log."""
        return f"{self.domain}--{self.source}"

    @classmethod
    def of(cls, arm: PlannedArm) -> Course:
        """Return what an arm is learned from; the wrong-domain control is from another domain."""
        source = arm.variant.expert_source
        return cls(arm.domain, "method" if source == "other_domain" else source)


def learning_steps(job: Job) -> int:
    """Return the number of steps of all learned profiles; 0 where there are none."""
    own = job.plan.learned
    return 0 if own is None else len(courses(job.arms)) * len(own.weights) * own.steps


def learned_arms(job: Job, counts: RoutingCounts, steps: Steps) -> dict[PlannedArm, PreparedArm]:
    """Make what is missing of the learned profiles, each by one worker, and return all arms.

    Raises:
        UserError: an item has no outcome, or the model's router or data do not allow it.
        SteeringError: the model's routers cannot be steered.
    """
    settings = job.plan.learned
    if settings is None:
        raise ValueError("the plan has no section learned")

    def skip() -> None:
        steps.skip(len(settings.weights) * settings.steps)

    job.leases.share(
        [
            Piece(
                f"learning-{course.name}",
                partial(_is_learned, job, course),
                do=partial(_learn, job, counts, course, settings, steps),
                skip=skip,
            )
            for course in courses(job.arms)
        ]
    )
    return {arm: _prepared(job, arm, settings) for arm in job.arms if _is_learned_arm(arm)}


def _is_learned_arm(arm: PlannedArm) -> bool:
    return arm.variant.kind == "learned"


def courses(arms: Sequence[PlannedArm]) -> list[Course]:
    """Return what is learned for arms, each once."""
    return list(dict.fromkeys(Course.of(arm) for arm in arms if _is_learned_arm(arm)))


def _is_learned(job: Job, course: Course) -> bool:
    return all(job.folder.has(job.folder.learned(course.name) / name) for name in LEARNED_FILES)


def _learn(
    job: Job,
    counts: RoutingCounts,
    course: Course,
    settings: Learned,
    advance: Callable[[int], None],
) -> None:
    lesson, sigmas = _lesson(job, course), sigmas_of(counts)
    reader = job.learner.reader()
    content = [course.name, pass_identity(job.learner, reader), job.plan.seed, _digest(lesson)]
    spread, tried = [sigmas[layer] for layer in counts.layers], list[LearnedShifts]()
    try:
        with frozen(reader.model):
            objective = ShiftObjective(reader.model)
            for own in settings.each():
                about = ["learning", *content, own.model_dump(mode="json"), [*sigmas.values()]]
                state = pass_folder(job.folder.observations, about) / "state.safetensors"
                tried.append(
                    learn_shifts(objective, lesson, spread, own, job.plan.seed, state, advance)
                )
    except ValueError as error:  # the file of the state is damaged
        raise UserError(str(error)) from error
    chosen = choose_weight(tried, settings.most_divergence)
    with job.folder.new_folder(job.folder.learned(course.name)) as draft:
        write_learned(draft, tried, chosen)
    note("profile learned", name=course.name, weight=chosen.weight, **asdict(chosen.best))


def _digest(lesson: Lesson) -> str:
    return hashlib.sha256(repr(asdict(lesson)).encode()).hexdigest()


def _lesson(job: Job, course: Course) -> Lesson:
    """Return what a profile is learned from; of the text, every second one is only looked at."""
    documents = read_documents(
        job.learner, job.identification.tasks, job.plan.identification, job.folder.observations
    )
    texts = [PlainText(tuple(one.tokens)) for one in documents if one.domain != course.domain]
    items = outcome_items(job.learner, _tasks(job, course, _targets(job)))
    checks = outcome_items(job.learner, _tasks(job, course, gaining(job.identification.tasks)))
    for part, read in (("tuning", items), ("identification", checks)):
        if not read:
            raise UserError(
                f"suite {job.suite.name!r}: {course.domain} has no items in the {part} split, so "
                "that no profile can be learned; leave learned-profile out, or add such a split"
            )
    if course.source == "shuffled_answers":
        items, checks = (shuffled(part, job.plan.seed) for part in (items, checks))
    return Lesson(items, tuple(texts[::2]), checks, tuple(texts[1::2]))


def _targets(job: Job) -> dict[str, WithItems]:
    """Return the tuning tasks of the targets."""
    return {name: task for name, task in job.tuning.items() if "target" in task.card.roles}


def _tasks(job: Job, course: Course, among: Mapping[str, WithItems]) -> dict[str, WithItems]:
    """Return the tasks of the course's domain, or of all targets."""
    domains = set(job.suite.targets) if course.source == "all_domains" else {course.domain}
    return {name: task for name, task in among.items() if task.card.domain in domains}


def shuffled(items: Sequence[OutcomeItem], seed: int) -> tuple[OutcomeItem, ...]:
    """Return items with their right answers permuted among those with as many options.

    Of items with one text the answer's tokens are permuted.
    """
    draw, changed = np.random.default_rng([seed, len(items)]), list(items)
    for size in sorted({len(one.texts) for one in items}):
        rows = [row for row, one in enumerate(items) if len(one.texts) == size]
        for row, other in zip(rows, draw.permutation(rows).tolist(), strict=True):
            changed[row] = _with_answer(items[row], items[other])
    return tuple(changed)


def _with_answer(item: OutcomeItem, other: OutcomeItem) -> OutcomeItem:
    if item.rights:
        return replace(item, rights=other.rights)
    (text,), (answer,) = item.texts, other.texts
    tokens = (*text.tokens[: text.start], *answer.tokens[answer.start :])
    return replace(item, texts=(replace(text, tokens=tokens),), scales=other.scales)


def _prepared(job: Job, arm: PlannedArm, settings: Learned) -> PreparedArm:
    course = Course.of(arm)
    learned = _read(job, job.folder.learned(course.name))
    source = identification_source(
        job.identification, arm.domain, job.plan.identification, job.plan.routing_engine
    )
    profile = build_learned_profile(arm.variant, job.engine.identity, learned.shift, source)
    keep_profile(job, arm, profile)
    return PreparedArm(
        arm,
        _settings(profile, learned, settings),
        profile,
        information=_terms(job, course, learned, settings),
    )


def _read(job: Job, path: Path) -> LearnedShifts:
    """Read what was learned, after checking it against the run's manifest."""
    for name in LEARNED_FILES:
        job.folder.read(path / name)
    return read_learned(path)


def _settings(profile: Profile, learned: LearnedShifts, settings: Learned) -> dict[str, object]:
    best = learned.best
    return settings.model_dump(mode="json") | {
        "expert_count": len(profile.experts),
        "log_odds": shift_ranges(profile, None).get("log_odds"),
        "weight": learned.weight,
        "best_step": best.step,
        "outcome_gain": learned.gain,
        "divergence": best.divergence,
    }


def _terms(job: Job, course: Course, learned: LearnedShifts, settings: Learned) -> Information:
    """Return what an arm learned from; the trained parameters are the shifts of all experts."""
    tried = len(settings.weights)
    read = (_targets(job), gaining(job.identification.tasks))
    parts = [_tasks(job, course, tasks) for tasks in read]
    return Information(
        texts=sum(len(job.identification.ids(domain)) for domain in job.identification.domains),
        answers=sum(len(task.items) for part in parts for task in part.values()),
        parameters=learned.shift.numel(),
        settings=tried if tried > 1 else 0,
        domain_named=False,
    )
