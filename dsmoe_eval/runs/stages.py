"""The stages of a run. Each does only what its folder does not hold yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..cards import Variant
from ..engines.base import Figures
from ..engines.transformers.engine import TransformersServing
from ..errors import UserError
from ..experts import RoutingCounts, activation_share, get_method
from ..files import new_folder, read_json, write_json, write_text
from ..models import LoadedModel
from ..results.cells import Identity, is_done
from ..results.comparisons import ArmCells
from ..steering import Profile
from ..tasks.scoring import score_tasks
from ..variants import BASE, Settings, build_profile, get_variant, variant_experts
from .cells import run_cell
from .identification import Wanted, count_domains, counts_to_json, source_of
from .job import Job
from .tuning import Scores, Tuned, tune

PROBE_TEXTS = 64
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant for a target with its settings fixed and its profile or adapters made."""

    variant: Variant
    target: str
    settings: dict[str, Any] | None
    profile: Profile | None = None
    adapter: str | None = None


def count_experts(job: Job, advance: Advance) -> RoutingCounts:
    """Routing counts over the identification text of all domains; what the arms' methods need."""
    methods = [get_method(name) for name in job.methods]
    wanted = Wanted.by(methods, job.plan.identification, job.suite.markers)
    root = job.folder.observations
    counts = count_domains(job.serving, job.identification, wanted, root, advance)
    path = job.folder.identification
    if not path.is_file():
        try:
            write_json(path, counts_to_json(counts, methods))
        except ValueError as error:
            raise UserError(f"plan {job.plan.name!r}: {error}") from error
    return counts


class Tuner:
    """Tunes arms; base is asked once, and only when something is left to tune."""

    def __init__(self, job: Job, counts: RoutingCounts) -> None:
        self.job = job
        self.counts = counts

    @cached_property
    def base(self) -> Scores:
        """Base's scores on the tuning split of every task."""
        asked = [name for name in self.job.base_tasks() if name in self.job.tuning]
        return _tuning_scores(self.job, asked, BASE)

    def tuned(self, variant: Variant, target: str, advance: Advance) -> Tuned:
        """The settings of an arm, from the folder or by trying the grid."""
        job, path = self.job, self.job.folder.tuning(variant.name, target)
        if path.is_file():
            advance(len(job.grid(variant)))
            return Tuned.from_dict(read_json(path))

        unavailable = _unavailable(job, self.counts, variant, target)
        grid = [one for one in job.grid(variant) if one.experts not in unavailable]
        advance(len(job.grid(variant)) - len(grid))
        asked = [name for name in job.arm_tasks(target) if name in job.tuning]

        def scores_at(settings: Settings) -> Scores:
            advance(1)
            profile = make_profile(job, self.counts, variant, target, settings)
            run_probes(job, target, profile)
            with job.serving.steer(profile):
                return _tuning_scores(job, asked, f"{variant.name}-{target}-{profile.id}")

        target_task, *others = asked
        clusters = {name: [i.cluster for i in job.tuning[name].items] for name in others}
        tuned = tune(job.plan, grid, self.base, target_task, others, scores_at, clusters)
        tuned = replace(tuned, unavailable=unavailable)
        write_json(path, tuned.to_dict())
        for answers in job.folder.answers("").parent.glob(f"tuning-{variant.name}-{target}-*"):
            answers.unlink()
        return tuned


def _tuning_scores(job: Job, tasks: list[str], who: str) -> Scores:
    """On the tuning split; a killed run does not ask again for answers that were generated."""
    remembered = job.folder.answers(f"tuning-{who}")
    return score_tasks(job.lm, [job.tuning[name] for name in tasks], remembered)


def _unavailable(job: Job, counts: RoutingCounts, variant: Variant, target: str) -> tuple[int, ...]:
    """Sizes of the grid for which the method cannot name as many experts, or which leave none out.

    Raises:
        UserError: it can name none of them.
    """
    missing, reason = [], None
    sizes = sorted({settings.experts for settings in job.grid(variant)})
    identity = job.serving.identity
    for size in sizes:
        try:
            if size >= identity.experts * len(identity.layers):
                raise ValueError(f"{size} experts are all that the model has")
            variant_experts(variant, counts, target, target, size, job.plan.seed)
        except ValueError as error:
            missing.append(size)
            reason = error
    if len(missing) == len(sizes):
        raise UserError(
            f"variant {variant.name!r}, target {target!r}: {reason}; take fewer in tuning.experts"
        ) from reason
    return tuple(missing)


def make_profile(
    job: Job, counts: RoutingCounts, variant: Variant, target: str, settings: Settings
) -> Profile:
    """The profile of a steered variant at some settings."""
    wrong = job.wrong_domain(target) if variant.experts == "wrong" else target
    try:
        experts = variant_experts(variant, counts, target, wrong, settings.experts, job.plan.seed)
    except ValueError as error:  # a control, of an arm that could name as many
        raise UserError(f"variant {variant.name!r}, target {target!r}: {error}") from error
    source = source_of(
        job.suite, job.identification, wrong, job.plan.identification, job.serving.name
    )
    return build_profile(variant, job.serving.identity, experts, settings.strength, source)


def make_arms(job: Job, counts: RoutingCounts, advance: Advance) -> list[Arm]:
    """Tune what is tuned, give controls the settings of what they control, write profiles."""
    tuner = Tuner(job, counts)
    arms: list[Arm] = []
    for variant, target in job.arms:
        if variant.kind != "steered":
            arms.append(Arm(variant, target, None))
            continue
        leading = variant if variant.is_tuned else get_variant(variant.control_of or "")
        tuned = tuner.tuned(leading, target, advance if variant.is_tuned else lambda _: None)
        profile = make_profile(job, counts, variant, target, tuned.chosen)
        path = job.folder.profile(variant.name, target, profile.id)
        if not path.is_file():
            write_text(path, profile.to_json())
        settings = {
            "experts": tuned.chosen.experts,
            "strength": profile.intervention.strength,
            "qualified_on_tuning": tuned.qualified,
            "sizes_unavailable": tuned.unavailable,
            "activation_share": activation_share(counts, profile.experts),
        }
        arms.append(Arm(variant, target, settings, profile))
    job.folder.answers(f"tuning-{BASE}").unlink(missing_ok=True)
    return arms


def fine_tune(job: Job, arm: Arm, advance: Advance) -> Arm:
    """Train the adapters of a fine-tuned arm, where they are not there yet."""
    from ..variants.sft import step_count, train_adapter

    if job.plan.sft is None:
        raise ValueError("the plan has no sft section")
    path = job.folder.adapter(arm.variant.name, arm.target)
    pairs = job.tuning[job.suite.target_task(arm.target).name].answers(job.lm)
    if path.is_dir():
        advance(step_count(len(pairs), job.plan.sft))
    else:
        model, tokenizer = _modules(job).model, _modules(job).tokenizer
        with new_folder(path) as draft:
            train_adapter(
                model, tokenizer, pairs, job.plan.sft, job.plan.seed, draft, lambda: advance(1)
            )
    weights = (path / "adapter_model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()[:16]
    return Arm(arm.variant, arm.target, job.plan.sft.model_dump(mode="json"), adapter=digest)


def answer_base(job: Job, advance: Advance) -> dict[str, str]:
    """Base on every task; task name -> cell id."""
    return _answer(job, Arm(get_variant(BASE), "", None), job.base_tasks(), None, advance)


def answer_arm(job: Job, arm: Arm, advance: Advance) -> ArmCells:
    """An arm on its tasks, with the probes run first where it is steered."""
    tasks = job.arm_tasks(arm.target)
    cells = {name: _identity(job, arm, name).id for name in tasks}
    if all(is_done(job.folder, _identity(job, arm, name)) for name in tasks):
        advance(len(tasks))
    else:
        with _equipped(job, arm) as figures:
            _answer(job, arm, tasks, figures, advance)
    profile = None if arm.profile is None else arm.profile.id
    return ArmCells(arm.variant, arm.target, arm.settings, profile, cells)


def _answer(
    job: Job, arm: Arm, tasks: list[str], figures: Figures | None, advance: Advance
) -> dict[str, str]:
    cells = {}
    for name in tasks:
        identity = _identity(job, arm, name)
        cells[name] = identity.id
        if not is_done(job.folder, identity):
            run_cell(job.folder, identity, job.lm, job.test[name], figures)
        advance(1)
    return cells


def _identity(job: Job, arm: Arm, task: str) -> Identity:
    profile = None if arm.profile is None else arm.profile.id
    return job.cell_identity(task, arm.variant, arm.target or None, profile, arm.adapter)


@contextmanager
def _equipped(job: Job, arm: Arm) -> Iterator[Figures | None]:
    """The model steered or adapted for the arm; gives the probes' figures."""
    if arm.profile is None:
        from ..variants.sft import adapter

        with adapter(_modules(job).model, job.folder.adapter(arm.variant.name, arm.target)):
            yield None
        return
    figures = run_probes(job, arm.target, arm.profile)
    _keep_routing(job, arm, arm.profile)
    with job.serving.steer(arm.profile):
        yield figures


def run_probes(job: Job, target: str, profile: Profile) -> Figures:
    """Both probes on the target's tuning questions: before any answer of a steered model counts."""
    return job.serving.probe(profile, _tuning_questions(job, target)[:PROBE_TEXTS])


def _keep_routing(job: Job, arm: Arm, profile: Profile) -> None:
    """Where the target's tuning questions were routed, before and after."""
    path = job.folder.routing(arm.variant.name, arm.target)
    if path.is_file():
        return
    texts = _tuning_questions(job, arm.target)
    before = job.serving.usage(texts)
    with job.serving.steer(profile):
        after = job.serving.usage(texts)
    write_json(path, {"base": before.tolist(), "steered": after.tolist()})


def _modules(job: Job) -> LoadedModel:
    """The model's own modules, to train them or to put adapters on."""
    if not isinstance(job.serving, TransformersServing):
        raise ValueError(f"{job.serving.name} does not give the model's modules")
    return job.serving.loaded


def _tuning_questions(job: Job, target: str) -> list[str]:
    task = job.tuning[job.suite.target_task(target).name]
    return [item.question for item in task.items]
