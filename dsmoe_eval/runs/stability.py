"""The spread of the method: experts, gains and scores under other samples of text and wordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from rich.console import Console

from ..cards import Variant
from ..engines.base import Figures
from ..experts import RoutingCounts
from ..progress import progress_bar
from ..results.cells import read_cell
from ..results.stability import (
    STABILITY_VERSION,
    ArmOverlap,
    ResampledGains,
    StabilityResult,
    TargetWordings,
    Wording,
)
from ..steering import Profile
from ..tasks.loading import check_preamble
from ..variants import Settings, variant_experts
from .answering import AskedCell, cell_pieces
from .arms import PlannedRun, PreparedArm
from .bench import Bench, run_probes
from .cells import cell_identity
from .influence import resampled_counts
from .job import Job
from .overlaps import Choice, overlap, resampled_choices
from .plan_checks import stability_arm
from .profiles import keep_profile, make_profile


@dataclass(frozen=True, slots=True)
class _Resampled:
    """A tuned arm, and the experts that each resample of the text chooses for it."""

    arm: PreparedArm
    profile: Profile
    choices: Sequence[Choice | None]


def stability_cells(planned: PlannedRun) -> Counter[str]:
    """Count the cells of the stage by task: the arm's resamples, base and the arm by wording."""
    plan = planned.plan.stability
    if plan is None:
        return Counter()
    times = plan.resamples + 2 * len(planned.suite.wordings)
    return Counter({planned.suite.target_task(target).name: times for target in planned.targets})


def stability_answers(job: Job) -> int:
    """Return the number of answers of these cells."""
    return sum(n * job.test[name].answers_asked for name, n in stability_cells(job).items())


def check_wordings(job: Job) -> None:
    """Check that prompts of every wording fit into the model, before anything is answered.

    Raises:
        UserError: the longest does not.
    """
    for name in stability_cells(job):
        for line in job.suite.wordings:
            check_preamble(job.test[name], line, job.lm)


def measure_stability(
    job: Job, counts: RoutingCounts, arms: Sequence[PreparedArm], console: Console
) -> None:
    """Measure the spread that the plan asks for, and write `stability.json`.

    One of several shards only answers its part of the cells.
    """
    plan = job.plan.stability
    if plan is None:
        return
    with progress_bar(console, "measure stability", stability_answers(job), "answers") as steps:
        numbers = range(1, plan.resamples + 1)
        texts = _resamples(job, counts, numbers)
        tuned = [_resampled(job, texts, arm) for arm in arms if _chooses_experts(arm)]
        name = stability_arm(job.plan, job.variants)
        leading = [
            _spread(job, texts, one) for one in tuned if one.arm.planned.variant.name == name
        ]
        with closing(Bench(lambda arm: _steered(job, arm))) as bench:
            cells = [cell for one in leading for cell in one.cells]
            job.leases.share(cell_pieces(job, cells, bench, steps), by_shard=True)
        steps.skip(steps.total - steps.done)  # those of resamples that choose no experts
    if job.leases.shard is not None:
        return
    result = StabilityResult(
        schema_version=STABILITY_VERSION,
        resamples=plan.resamples,
        arm=name,
        overlaps=tuple(_overlap(one, counts.experts) for one in tuned),
        without_experts=_without_experts(job.variants),
        gains=tuple(_gains(job, one) for one in leading),
        wordings=tuple(_wordings(job, one) for one in leading),
    )
    with job.leases.turn("stability"):
        if not job.folder.has(job.folder.stability) or job.leases.writer is None:
            job.folder.write_json(job.folder.stability, result.model_dump(mode="json"))


def _resamples(job: Job, counts: RoutingCounts, numbers: Sequence[int]) -> list[RoutingCounts]:
    tasks, settings = job.identification.tasks, job.plan.identification
    # The learner only reads its own pass, and `check_plan` has seen to it that it is loaded.
    learner = job.engine if counts.influence is None else job.learner
    root, seed = job.folder.observations, job.plan.seed
    return resampled_counts(learner, tasks, counts, root, numbers, seed, settings)


def _chooses_experts(arm: PreparedArm) -> bool:
    variant = arm.planned.variant
    return variant.is_tuned and variant.kind == "steered" and variant.quantized is None


def _without_experts(variants: Sequence[Variant]) -> tuple[str, ...]:
    """Return the tuned variants that steer by something else, such as a vector."""
    return tuple(one.name for one in variants if one.is_tuned and one.kind != "steered")


def _resampled(job: Job, texts: Sequence[RoutingCounts], arm: PreparedArm) -> _Resampled:
    if arm.profile is None:
        raise ValueError(f"arm {arm.planned.name} has no profile")
    planned, size = arm.planned, len(arm.profile.experts)

    def choose(counts: RoutingCounts) -> Choice:
        return variant_experts(planned.variant, counts, planned.domain, size, job.plan.seed)

    return _Resampled(arm, arm.profile, resampled_choices(texts, choose))


def _overlap(one: _Resampled, units: int) -> ArmOverlap:
    planned = one.arm.planned
    figures = overlap(one.choices, one.profile.experts, units).model_dump()
    return ArmOverlap(variant=planned.variant.name, target=planned.target, **figures)


@dataclass(frozen=True, slots=True)
class _Spread:
    """The cells of the target's items: by each resample that chooses experts, and by wording."""

    target: str
    task: str
    resampled: Sequence[AskedCell]
    lines: Sequence[str | None]
    base: Sequence[AskedCell]
    arm: Sequence[AskedCell]

    @property
    def cells(self) -> list[AskedCell]:
        """All of them; those without another wording are of the test, too."""
        return [*self.resampled, *self.base[1:], *self.arm[1:]]


def _spread(job: Job, texts: Sequence[RoutingCounts], one: _Resampled) -> _Spread:
    task, lines = one.arm.planned.tasks[0], (None, *job.suite.wordings)
    resampled = [
        AskedCell(_with_resample(job, counts, one, number), task)
        for number, (counts, choice) in enumerate(zip(texts, one.choices, strict=True), 1)
        if choice is not None
    ]
    base, arm = ([AskedCell(who, task, line) for line in lines] for who in (None, one.arm))
    return _Spread(one.arm.planned.target, task, resampled, lines, base, arm)


def _gains(job: Job, one: _Spread) -> ResampledGains:
    base, *cells = (_id(job, cell) for cell in (one.base[0], *one.resampled))
    before = _score(job, base)
    return ResampledGains(
        target=one.target,
        base=base,
        cells=tuple(cells),
        gains=tuple(_score(job, cell) - before for cell in cells),
    )


def _with_resample(job: Job, counts: RoutingCounts, one: _Resampled, number: int) -> PreparedArm:
    """Return the arm with a resample's experts, at its tuned settings, and store the profile."""
    ending, planned = f"resample-{number}", one.arm.planned
    variant = planned.variant.model_copy(update={"name": f"{planned.variant.name}+{ending}"})
    settings = Settings(len(one.profile.experts), one.profile.intervention.strength)
    made = make_profile(job, counts, planned, settings)
    profile = made.model_copy(update={"method": f"{made.method}, {ending}"})
    resampled = replace(planned, variant=variant)
    keep_profile(job, resampled, profile)
    return replace(one.arm, planned=resampled, profile=profile)


def _wordings(job: Job, one: _Spread) -> TargetWordings:
    pairs = [(_id(job, a), _id(job, b)) for a, b in zip(one.base, one.arm, strict=True)]
    return TargetWordings(
        target=one.target,
        wordings=tuple(
            Wording(line=line, base=_score(job, a), arm=_score(job, b), base_cell=a, arm_cell=b)
            for line, (a, b) in zip(one.lines, pairs, strict=True)
        ),
    )


def _id(job: Job, cell: AskedCell) -> str:
    return cell_identity(job, cell.arm, cell.task, cell.line).id


@contextmanager
def _steered(job: Job, arm: PreparedArm) -> Iterator[Figures | None]:
    """Steer the model for an arm after its probes, and yield their figures."""
    if arm.profile is None:
        raise ValueError(f"arm {arm.planned.name} has no profile")
    figures = run_probes(job, arm.planned, arm.profile)
    with job.engine.steer(arm.profile):
        yield figures


def _score(job: Job, cell: str) -> float:
    return read_cell(job.folder, cell)["score"]
