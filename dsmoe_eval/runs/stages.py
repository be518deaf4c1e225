"""The stages of a run. Each does only what is missing in the run's folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np

from ..engines.base import Advance, Figures, Prober
from ..errors import UserError
from ..experts import (
    RoutingCounts,
    StreamMeans,
    activation_share,
    get_method,
)
from ..log import note
from ..progress import Steps, counted_as
from ..results.guards import KEY, read_guard
from ..results.terms import NAMED_DOMAIN, Information
from ..steering import Profile
from ..tasks.outcomes import outcome_values
from ..variants import BASE, Settings, shift_ranges, variant_experts
from .arms import PlannedArm, PreparedArm
from .guards import guard_run
from .identification import count_domains
from .identified import counts_to_json
from .influence import answers_read
from .job import Job
from .learned import kept_counts
from .leases import Piece
from .matching import matching_of
from .plan_checks import plan_sites
from .profiles import keep_profile, make_profile
from .pruned import pruned_arm
from .routed import count_routed
from .specification import IdentificationSpec
from .tuning import Scores, Tuned, tune

PROBE_TEXTS = 64


def count_experts(job: Job, advance: Advance) -> RoutingCounts:
    """Count what the arms' methods need of the routing over all domains' identification text.

    The counts and the methods' scores are also written to the run's folder.
    """
    names = dict.fromkeys(arm.variant.method for arm in job.arms)
    methods = [get_method(name) for name in names if name is not None]
    wanted = IdentificationSpec.by(methods, job.plan.identification, job.suite.markers)
    wanted = replace(wanted, sft=job.plan.sft)
    root = job.folder.observations

    def count() -> RoutingCounts:
        if job.plan.routing_from == "engine":
            return count_routed(job, wanted, advance)
        return count_domains(job.learner, job.identification.tasks, wanted, root, advance)

    counts = kept_counts(job, count)
    path = job.folder.identification
    if not job.folder.has(path):
        try:
            content = counts_to_json(counts, methods, plan_sites(job.plan))
        except ValueError as error:
            raise UserError(f"plan {job.plan.name!r}: {error}") from error
        if (found := guard_run(job)) is not None:
            content[KEY] = found.model_dump(mode="json")
        job.folder.write_json(path, content)
    guard = read_guard(job.folder)
    return counts if guard is None else replace(counts, spared=guard.pairs)


def tuning_answers(job: Job) -> int:
    """Return the number of answers of tuning: base once, each arm at each of its settings."""
    base = sum(job.tuning[name].answers_asked for name in _tuning_tasks(job, job.base_tasks))
    return base + sum(_answers_a_setting(job, arm) * len(arm.grid) for arm in job.arms)


def _answers_a_setting(job: Job, arm: PlannedArm) -> int:
    return sum(job.tuning[name].answers_asked for name in _tuning_tasks(job, arm.tasks))


def _tuning_tasks(job: Job, tasks: Sequence[str]) -> list[str]:
    """Return the tasks that have a tuning part."""
    return [name for name in tasks if name in job.tuning]


class Tuner:
    """The tuning of a run's arms, each once; base is scored once, and only if an arm needs it."""

    def __init__(
        self, job: Job, counts: RoutingCounts, steps: Steps, means: StreamMeans | None = None
    ) -> None:
        self.job = job
        self.counts = counts
        self.means = means
        self.steps = steps
        self._tuned: dict[PlannedArm, Tuned] = {}
        self._probers: dict[str, Prober] = {}

    @cached_property
    def base(self) -> Scores:
        """The scores of base on the tuning split of every task, which the run's folder keeps."""
        folder, path = self.job.folder, self.job.folder.tuning_base
        with self.job.leases.turn("tuning-base"):
            if folder.has(path):
                return {name: np.array(one) for name, one in folder.read_json(path).items()}
            scores = _tuning_scores(self.job, self.job.base_tasks, BASE, self.steps)
            folder.write_json(path, {name: one.tolist() for name, one in scores.items()})
            folder.forget_answers(f"tuning-{BASE}")
            return scores

    def _prober(self, arm: PlannedArm) -> Prober:
        """Return the prober on the target's questions, to probe before an answer counts."""
        if arm.target not in self._probers:
            self._probers[arm.target] = self.job.engine.prober(probed(self.job, arm))
        return self._probers[arm.target]

    def tuned(self, arm: PlannedArm) -> Tuned:
        """Return the settings of a tuned arm: from the run's folder, else by trying the grid."""
        if arm not in self._tuned:
            folder = self.job.folder
            path = folder.tuning(arm.variant.name, arm.target)
            if folder.has(path):
                self.steps.skip(_answers_a_setting(self.job, arm) * len(arm.grid))
                self._tuned[arm] = Tuned.from_dict(folder.read_json(path))
            else:
                self._tuned[arm] = self._tune(arm)
                if not folder.has(path):  # else another worker was faster, and the first one stays
                    folder.write_json(path, self._tuned[arm].to_dict())
                self._tuned[arm] = Tuned.from_dict(folder.read_json(path))
                folder.forget_answers(f"tuning-{arm.name}")
        return self._tuned[arm]

    def piece(self, arm: PlannedArm) -> Piece:
        """Return an arm's tuning as a piece; one that is done is only read."""
        folder, path = self.job.folder, self.job.folder.tuning(arm.variant.name, arm.target)

        def do() -> None:
            self.tuned(arm)

        return Piece(f"tuning-{arm.name}", lambda: folder.has(path), do=do, skip=do)

    def _tune(self, arm: PlannedArm) -> Tuned:
        job = self.job
        unavailable = _unavailable(job, self.counts, arm)
        layers = 0 if self.means is None else self.means.layers
        located = dict.fromkeys(one.in_model(layers) for one in arm.grid)  # depths may coincide
        grid = [one for one in located if one.expert_count not in unavailable]
        self.steps.skip(_answers_a_setting(job, arm) * (len(arm.grid) - len(grid)))
        target_task, *others = _tuning_tasks(job, arm.tasks)
        clusters = {name: [i.cluster for i in job.tuning[name].items] for name in others}

        def scores_at(settings: Settings) -> Scores:
            return self._scores_at(arm, settings)

        tuned = tune(job.plan, grid, self.base, target_task, others, scores_at, clusters)
        return replace(tuned, unavailable=unavailable)

    def _scores_at(self, arm: PlannedArm, settings: Settings) -> Scores:
        job, started = self.job, time.perf_counter()
        profile = make_profile(job, self.counts, arm, settings, self.means)
        note_probes(arm, profile, self._prober(arm).probe(profile, must_act=False))
        with job.engine.steer(profile):
            scores = _tuning_scores(job, arm.tasks, f"{arm.name}--{profile.id}", self.steps)
        note(
            "setting tried",
            logging.DEBUG,
            **about(arm),
            **asdict(settings),
            seconds=seconds_since(started),
        )
        return scores


def _tuning_scores(job: Job, tasks: Sequence[str], who: str, advance: Advance) -> Scores:
    """Score the model in its present state on the tuning split.

    Generated answers are stored in the run's folder under `who`, so that a killed run does not
    generate them again.
    """
    job.roles.start()
    asked = [job.tuning[name] for name in _tuning_tasks(job, tasks)]
    answers = sum(task.answers_asked for task in asked)
    requests = sum(task.requests_asked for task in asked)
    remembered = job.folder.answers(f"tuning-{who}")
    with counted_as(advance, answers, requests) as count:
        return outcome_values(job.lm, asked, job.plan.outcome, remembered, count)


def _unavailable(job: Job, counts: RoutingCounts, arm: PlannedArm) -> tuple[int, ...]:
    """Return the sizes in the grid for which the method cannot name as many experts.

    A size of all experts of the model or more is among them. A vector has no size.

    Raises:
        UserError: no size in the grid is available.
    """
    if arm.variant.kind == "residual":
        return ()
    missing, reason = [], None
    sizes = sorted({settings.expert_count for settings in arm.grid})
    identity = job.engine.identity
    for size in sizes:
        try:
            if size >= identity.experts * len(identity.layers):
                raise ValueError(f"{size} experts are all that the model has")
            variant_experts(arm.variant, counts, arm.domain, size, job.plan.seed)
        except ValueError as error:
            missing.append(size)
            reason = error
    if len(missing) == len(sizes):
        raise UserError(
            f"variant {arm.variant.name!r}, target {arm.target!r}: {reason}; "
            "take fewer in tuning.expert_counts"
        ) from reason
    return tuple(missing)


def make_arms(
    job: Job,
    counts: RoutingCounts,
    trained: Mapping[PlannedArm, PreparedArm],
    steps: Steps,
    means: StreamMeans | None = None,
) -> list[PreparedArm]:
    """Tune the arms, give each control the settings of the arm it controls, write profiles.

    Args:
        job: the run.
        counts: the routing counts.
        trained: the fine-tuned arms, which are not tuned.
        steps: the counter of answers.
        means: the mean residual streams, where an arm needs them.
    """
    tuner = Tuner(job, counts, steps, means)
    tuned = dict.fromkeys(arm.tuned for arm in job.arms if arm.tuned.grid)
    job.leases.share([tuner.piece(arm) for arm in tuned])
    arms = [
        # The form, which is no part of the profile, tells the cells of own variants apart.
        made
        if (form := arm.variant.quantized) is None
        else replace(made, adapter="-".join(filter(None, (made.adapter, form))))
        for arm in job.arms
        for made in [trained.get(arm) or _made(job, counts, tuner, arm)]
    ]
    steps.skip(steps.total - steps.done)  # base, where nothing was left to tune
    return arms


def _made(job: Job, counts: RoutingCounts, tuner: Tuner, arm: PlannedArm) -> PreparedArm:
    if arm.variant.kind == BASE:
        return PreparedArm(arm)
    if arm.variant.kind == "prompt":
        return PreparedArm(arm, {"line": arm.preamble}, information=NAMED_DOMAIN)
    if arm.variant.keep is not None:
        return pruned_arm(job, counts, arm)
    tuned = tuner.tuned(arm.tuned)
    profile = make_profile(job, counts, arm, tuned.chosen, tuner.means)
    keep_profile(job, arm, profile)
    settings = {
        "expert_count": tuned.chosen.expert_count,
        "strength": profile.intervention.strength,
        **shift_ranges(profile, None if counts.spread is None else counts.sigmas()),
        "qualified_on_tuning": tuned.qualified,
        "sizes_unavailable": tuned.unavailable,
        "layers": tuned.chosen.layers,
        "activation_share": activation_share(counts, profile.experts) if profile.experts else None,
        "matching": matching_of(
            arm, counts, profile.experts, tuned.chosen.expert_count, job.plan.seed
        ),
    }
    learned = Information(
        texts=sum(len(job.identification.ids(domain)) for domain in job.identification.domains),
        answers=sum(len(job.tuning[name].items) for name in _tuning_tasks(job, arm.tasks))
        + _answers_read(job, arm),
        parameters=0,
        settings=len(tuned.trials),
        domain_named=False,
    )
    return PreparedArm(arm, settings, profile, information=learned)


def _answers_read(job: Job, arm: PlannedArm) -> int:
    """Return the number of answers by which its experts were identified."""
    if arm.variant.method is None:
        return 0
    return answers_read(job.identification.tasks, get_method(arm.variant.method), arm.domain)


def probed(job: Job, arm: PlannedArm) -> list[str]:
    """Return the questions on which an arm is probed: some of the target's tuning questions."""
    return tuning_questions(job, arm)[:PROBE_TEXTS]


def note_probes(arm: PlannedArm, profile: Profile, figures: Figures) -> None:
    """Write the figures of passed probes to the log."""
    note("probes passed", logging.DEBUG, **about(arm), profile=profile.id, **figures.to_dict())


def tuning_questions(job: Job, arm: PlannedArm) -> list[str]:
    """Return the questions of the target's tuning items."""
    return [item.question for item in job.tuning[arm.tasks[0]].items]


def about(arm: PlannedArm) -> dict[str, str]:
    """Return the fields of log records that name an arm."""
    return {"variant": arm.variant.name, "target": arm.target}


def seconds_since(started: float) -> float:
    """Return the seconds since a reading of `time.perf_counter`."""
    return round(time.perf_counter() - started, 3)
