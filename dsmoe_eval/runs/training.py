"""The fine-tuned arms of a run, trained on the tuning split of the target."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards import Sft
from ..errors import UserError
from ..experts import RoutingCounts
from ..files import damage
from ..log import note
from ..models import rounded_experts
from ..progress import Steps
from ..results.folder import RunFolder
from ..results.terms import Information
from ..steering import ChosenExpert
from ..variants import variant_experts
from .arms import PlannedArm, PreparedArm
from .job import Job
from .leases import Piece
from .matching import matching_of
from .roles import modules

if TYPE_CHECKING:
    from ..variants.recipes import TrainingRecord


def trained_arms(job: Job, counts: RoutingCounts, steps: Steps) -> dict[PlannedArm, PreparedArm]:
    """Train what is missing of the fine-tuned arms, each by one worker, and return all of them."""
    trained: dict[PlannedArm, PreparedArm] = {}

    def train(arm: PlannedArm) -> None:
        trained[arm] = fine_tune(job, counts, arm, steps)

    fine = [arm for arm in job.arms if arm.variant.kind == "sft"]
    job.leases.share([_piece(job, arm, partial(train, arm)) for arm in fine])
    return trained


def _piece(job: Job, arm: PlannedArm, train: Callable[[], None]) -> Piece:
    """Return an arm's training as a piece; one that is done is only read."""
    return Piece(f"training-{arm.name}", partial(_is_trained, job, arm), do=train, skip=train)


def _is_trained(job: Job, arm: PlannedArm) -> bool:
    from ..variants.recipes import FILES

    path = job.folder.adapter(arm.variant.name, arm.target)
    return all(job.folder.has(path / name) for name in FILES[arm.variant.trained_by])


def training_steps(job: Job) -> int:
    """Return the number of optimizer steps of all fine-tuned arms; 0 where there are none."""
    return sum(_training_steps(job, arm) for arm in job.arms if arm.variant.kind == "sft")


def _training_steps(job: Job, arm: PlannedArm) -> int:
    from ..variants.fitting import step_count

    return step_count(len(job.tuning[arm.tasks[0]].items), _settings(job, arm))


def _settings(job: Job, arm: PlannedArm) -> Sft:
    """Return the settings of an arm's recipe and budget."""
    if job.plan.sft is None:
        raise ValueError("the plan has no sft section")
    return job.plan.sft.of(arm.variant)


def fine_tune(job: Job, counts: RoutingCounts, arm: PlannedArm, steps: Steps) -> PreparedArm:
    """Train a fine-tuned arm, if its weights are missing in the run's folder.

    Raises:
        UserError: its method names no experts here, or the model does not allow the recipe.
    """
    from ..variants.recipes import WEIGHTS

    experts, settings = _experts(job, counts, arm), _settings(job, arm)
    path = job.folder.adapter(arm.variant.name, arm.target)
    if _is_trained(job, arm):
        steps.skip(_training_steps(job, arm))
    else:
        _train(job, arm, path, experts, steps)
    record = read_training(job.folder, arm.variant.name, arm.target)
    learned = Information(
        texts=_texts(job) if arm.variant.trains_experts else 0,
        answers=len(job.tuning[arm.tasks[0]].items),
        parameters=record.parameters,
        settings=0,
        domain_named=False,
    )
    digest = job.folder.digest(path / WEIGHTS[arm.variant.trained_by])[:16]
    about = settings.model_dump(mode="json") | {
        "recipe": arm.variant.trained_by,
        "tokens": record.tokens,
        "steps": record.steps,
        "expert_count": len(experts) or None,
        "weights": digest,
        "similarity": None if record.similarity is None else asdict(record.similarity),
        "matching": matching_of(arm, counts, experts, None, job.plan.seed),
    }
    return PreparedArm(arm, about, adapter=digest, information=learned)


def read_training(folder: RunFolder, variant: str, target: str) -> TrainingRecord:
    """Read what the training of an arm took, from the run's folder.

    Raises:
        UserError: the file is missing or damaged.
    """
    from ..variants.recipes import TRAINING, TrainingRecord

    path = folder.adapter(variant, target) / TRAINING
    content = folder.read_json(path)
    with damage(path):
        return TrainingRecord.parsed(content)


def _texts(job: Job) -> int:
    return sum(len(job.identification.ids(domain)) for domain in job.identification.domains)


def _experts(job: Job, counts: RoutingCounts, arm: PlannedArm) -> tuple[ChosenExpert, ...]:
    """Return the experts that an arm trains: as many as its method's rule says."""
    if not arm.variant.trains_experts:
        return ()
    try:
        return variant_experts(arm.variant, counts, arm.domain, None, job.plan.seed)
    except ValueError as error:
        raise UserError(
            f"variant {arm.variant.name!r}, target {arm.target!r}: {error}; leave it out"
        ) from error


def _train(
    job: Job, arm: PlannedArm, path: Path, experts: tuple[ChosenExpert, ...], steps: Steps
) -> None:
    from ..variants.merging import check_room
    from ..variants.recipes import TrainingTask, train_variant

    loaded = modules(job.learner)
    if job.roles.are_two:
        check_room(job.folder.merged, loaded)  # said before hours of training
    pairs = job.tuning[arm.tasks[0]].answers(job.lm)
    given = pairs, _settings(job, arm), job.plan.seed, experts, arm.variant.expert_source
    task = TrainingTask(arm.variant.trained_by, *given)
    form = arm.variant.quantized
    rounding = nullcontext() if form is None else rounded_experts(loaded.model, form)
    with job.folder.new_folder(path) as draft, rounding:
        train_variant(loaded.model, loaded.tokenizer, task, draft, lambda: steps(1))
    record = read_training(job.folder, arm.variant.name, arm.target)
    note(
        "arm trained",
        logging.DEBUG,
        variant=arm.variant.name,
        target=arm.target,
        **{k: v for k, v in asdict(record).items() if k not in ("experts", "similarity")},
    )
