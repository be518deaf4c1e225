"""The profiles of a run's arms, from routing counts or from mean residual streams."""

from __future__ import annotations

from ..engines.base import Advance
from ..errors import UserError
from ..experts import RoutingCounts, StreamMeans
from ..models.pruning import choice_groups
from ..results import RunFolder
from ..results.arms import Arm
from ..steering import Profile
from ..variants import (
    Settings,
    build_profile,
    build_vector_profile,
    sigmas_of,
    variant_experts,
    variant_vectors,
)
from .arms import PlannedArm
from .identification import average_streams, identification_source
from .job import Job
from .learned import kept_means


def needs_streams(job: Job) -> bool:
    """Return whether an arm steers by a vector in the residual stream."""
    return any(arm.variant.kind == "residual" for arm in job.arms)


def stream_means(job: Job, advance: Advance) -> StreamMeans:
    """Average the residual stream over all domains' identification text."""
    settings, root = job.plan.identification, job.folder.observations

    def average() -> StreamMeans:
        return average_streams(job.learner, job.identification.tasks, settings, root, advance)

    return kept_means(job, average)


def make_profile(
    job: Job,
    counts: RoutingCounts,
    arm: PlannedArm,
    settings: Settings,
    means: StreamMeans | None = None,
) -> Profile:
    """Build the profile of a steered arm at these settings; a vector needs the mean streams."""
    variant, seed, model = arm.variant, job.plan.seed, job.engine.identity
    source = identification_source(
        job.identification, arm.domain, job.plan.identification, job.plan.routing_engine
    )
    try:
        if variant.kind == "residual" and means is not None:
            vectors = variant_vectors(variant, means, arm.domain, settings.layers, seed)
            return build_vector_profile(variant, model, vectors, settings.strength, source)
        groups = 1 if variant.keep is None else choice_groups(job.plan.model)
        size = settings.expert_count
        experts = variant_experts(variant, counts, arm.domain, size, seed, groups)
    except ValueError as error:  # a control, of an arm that could name as many
        raise UserError(f"variant {variant.name!r}, target {arm.target!r}: {error}") from error
    sigmas = None
    if settings.unit == "sigma" and variant.intervention != "mask":  # a mask has no strength
        sigmas = sigmas_of(counts)
    return build_profile(variant, model, experts, settings.strength, source, sigmas)


def keep_profile(job: Job, arm: PlannedArm, profile: Profile) -> None:
    """Write the profile of an arm to the run's folder, if it is missing."""
    path = job.folder.profile(arm.variant.name, arm.target, profile.id)
    if not job.folder.has(path):
        job.folder.write(path, profile.to_json().encode())


def experts_profile(folder: RunFolder, arm: Arm) -> Profile | None:
    """Read the profile of a finished run's arm; None if it steers no experts.

    Raises:
        UserError: the file is missing, or is not what the run wrote.
    """
    if arm.profile is None:
        return None
    content = folder.read(folder.profile(arm.variant, arm.target, arm.profile))
    profile = Profile.from_json(content)
    return profile if profile.experts else None
