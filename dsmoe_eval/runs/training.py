"""The fine-tuned arms of a run: their adapters, trained on the tuning split of the target."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..cards import Sft
from ..progress import Steps
from ..results.terms import Information
from .arms import PlannedArm, PreparedArm
from .job import Job
from .leases import Piece
from .roles import modules


def trained_arms(job: Job, steps: Steps) -> dict[PlannedArm, PreparedArm]:
    """Train what is missing of the fine-tuned arms, each by one worker, and return all of them."""
    trained: dict[PlannedArm, PreparedArm] = {}

    def train(arm: PlannedArm) -> None:
        trained[arm] = fine_tune(job, arm, steps)

    fine = [arm for arm in job.arms if arm.variant.kind == "sft"]
    job.leases.share([_piece(job, arm, partial(train, arm)) for arm in fine])
    return trained


def _piece(job: Job, arm: PlannedArm, train: Callable[[], None]) -> Piece:
    """Return an arm's training as a piece; one that is done is only read."""
    return Piece(f"training-{arm.name}", partial(_is_trained, job, arm), do=train, skip=train)


def _is_trained(job: Job, arm: PlannedArm) -> bool:
    from ..variants.sft import ADAPTER_FILES

    path = job.folder.adapter(arm.variant.name, arm.target)
    return all(job.folder.has(path / name) for name in ADAPTER_FILES)


def training_steps(job: Job) -> int:
    """Return the number of optimizer steps of all fine-tuned arms; 0 where there are none."""
    return sum(_training_steps(job, arm) for arm in job.arms if arm.variant.kind == "sft")


def _training_steps(job: Job, arm: PlannedArm) -> int:
    from ..variants.sft import step_count

    if job.plan.sft is None:
        raise ValueError("the plan has no sft section")
    return step_count(len(job.tuning[arm.tasks[0]].items), job.plan.sft)


def fine_tune(job: Job, arm: PlannedArm, steps: Steps) -> PreparedArm:
    """Train the adapters of a fine-tuned arm, if they are missing in the run's folder."""
    from ..variants.sft import adapter_parameters

    if job.plan.sft is None:
        raise ValueError("the plan has no sft section")
    path = job.folder.adapter(arm.variant.name, arm.target)
    if _is_trained(job, arm):
        steps.skip(_training_steps(job, arm))
    else:
        _train(job, arm, path, job.plan.sft, steps)
    digest = job.folder.digest(path / "adapter_model.safetensors")[:16]
    learned = Information(
        texts=0,
        answers=len(job.tuning[arm.tasks[0]].items),
        parameters=adapter_parameters(path),
        settings=0,
        domain_named=False,
    )
    settings = job.plan.sft.model_dump(mode="json")
    return PreparedArm(arm, settings, adapter=digest, information=learned)


def _train(job: Job, arm: PlannedArm, path: Path, settings: Sft, steps: Steps) -> None:
    from ..variants.merging import check_room
    from ..variants.sft import train_adapter

    loaded = modules(job.learner)
    if job.roles.are_two:
        check_room(job.folder.merged, loaded)  # said before hours of training
    pairs = job.tuning[arm.tasks[0]].answers(job.lm)
    with job.folder.new_folder(path) as draft:
        train_adapter(
            loaded.model, loaded.tokenizer, pairs, settings, job.plan.seed, draft, lambda: steps(1)
        )
