"""Pruned models as profiles: nothing is tuned, since it is given how many experts are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..cards import Identification
from ..engines.base import Engine
from ..errors import UserError
from ..experts import RoutingCounts, exposure_kept, get_method, pruned_experts
from ..models.pruning import choice_groups
from ..results.terms import NOTHING
from ..steering import Intervention, Profile
from ..tasks.identification import IdentificationText
from ..variants import Settings
from .arms import PlannedArm, PreparedArm
from .identification import count_text, identification_source
from .job import Job
from .profiles import keep_profile, make_profile


def identify_pruned(
    engine: Engine,
    text: IdentificationText,
    domain: str,
    method: str,
    keep: int,
    *,
    settings: Identification,
    markers: Mapping[str, float] | None = None,
    root: Path | None = None,
    console: Console | None = None,
    spared: Sequence[tuple[int, int]] = (),
) -> Profile:
    """Build the profile that masks all experts but the `keep` best of each layer.

    Those of `spared` are kept first; see `guards.guard_text`.
    `bake` makes a smaller checkpoint of it. See `identify` for the other arguments.

    Raises:
        UserError: as `identify`, or as many cannot be kept.
    """
    counts = count_text(
        engine, text, get_method(method), settings, markers, root=root, console=console
    )
    counts = replace(counts, spared=tuple(spared))
    groups = choice_groups(engine.identity.name)
    try:
        removed = pruned_experts(get_method(method), counts, domain, keep, groups)
    except ValueError as error:
        raise UserError(f"method {method!r}, domain {domain!r}: {error}") from error
    return Profile(
        model=engine.identity,
        method=f"{method}, keep {keep}",
        experts=removed,
        intervention=Intervention(kind="mask", strength=1.0),
        source=identification_source(text, domain, settings, engine.name),
    )


def pruned_arm(job: Job, counts: RoutingCounts, arm: PlannedArm) -> PreparedArm:
    """Build the profile that masks all experts but those that a pruned arm keeps, and store it.

    Raises:
        UserError: the layers cannot keep as many.
    """
    profile = make_profile(job, counts, arm, Settings(expert_count=0, strength=1.0))
    keep_profile(job, arm, profile)
    experts = job.engine.identity.experts
    masked = () if profile.is_null else profile.experts
    settings = {
        "kept_per_layer": arm.variant.keep if masked else experts,
        "removed": len(masked) / (experts * len(job.engine.identity.layers)),
        "exposure_kept": exposure_kept(counts, masked),
    }
    texts = sum(len(job.identification.ids(domain)) for domain in job.identification.domains)
    learned = NOTHING.model_copy(update={"texts": texts})
    return PreparedArm(arm, settings, profile, information=learned)
