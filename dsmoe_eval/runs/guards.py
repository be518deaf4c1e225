"""The guard of a run: super experts are found before arms are made, and are not switched off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain, zip_longest
from pathlib import Path

from ..cards import Identification, Variant
from ..engines.base import Engine
from ..engines.transformers.engine import TransformersEngine
from ..experts import Document, measure_peaks, super_experts
from ..experts.super_experts import LOOKED_AT
from ..results.guards import Guard
from ..steering import SteeringError
from ..tasks.identification import IdentificationText
from ..tasks.items import WithItems
from .identification import read_documents
from .job import Job

NOT_LOOKED = Guard(looked=False, tokens=0, experts=())


def guard_run(job: Job) -> Guard | None:
    """Find the super experts of a run's model; return None where no arm could switch any off."""
    dense = job.plan.sites == "neurons"
    needed = any(_switches_off(arm.variant, dense) for arm in job.arms)
    if job.plan.super_experts == "allow" or not needed:
        return None
    if job.plan.learner == "vllm":
        return NOT_LOOKED
    settings, root = job.plan.identification, job.folder.observations
    return guard_model(job.learner, job.identification.tasks, settings, root)


def guard_text(
    engine: Engine, text: IdentificationText, settings: Identification, root: Path | None = None
) -> Guard:
    """Find super experts as a run does, for a profile beside a run.

    Args:
        engine: the model's engine.
        text: the identification text.
        settings: the presentation of the text.
        root: the folder of passes; by default `out/observations`.
    """
    return guard_model(engine, text.tasks, settings, root or Path("out") / "observations")


def guard_model(
    engine: Engine, tasks: Mapping[str, WithItems], settings: Identification, root: Path
) -> Guard:
    """Find super experts on the first documents of every domain.

    The guard says that it did not look where outputs of single experts cannot be seen: in vLLM, and
    in models whose experts cannot be run one by one.
    """
    if not isinstance(engine, TransformersEngine):
        return NOT_LOOKED
    documents = read_documents(engine, tasks, settings, root)
    try:
        peaks = measure_peaks(engine.loaded.model, _first(documents))
    except SteeringError:
        return NOT_LOOKED
    found = tuple(asdict(one) for one in super_experts(peaks))
    return Guard.model_validate({"looked": True, "tokens": peaks.tokens, "experts": found})


def _switches_off(variant: Variant, dense: bool) -> bool:
    """Return whether an arm masks, prunes or forces out experts, or draws random ones.

    Random neurons of a dense model are scaled only, as the chosen ones are.
    """
    drawn = variant.kind == "steered" and variant.expert_source == "random_matched"
    return (drawn and not dense) or variant.intervention in ("mask", "prune", "force")


def _first(documents: tuple[Document, ...]) -> list[tuple[int, ...]]:
    """Return the first documents of every domain in turn, as many tokens as are looked at."""
    domains = dict.fromkeys(one.domain for one in documents)
    lists = [[one.tokens for one in documents if one.domain == name] for name in domains]
    taken: list[tuple[int, ...]] = []
    for tokens in chain.from_iterable(zip_longest(*lists)):
        if tokens is not None and sum(map(len, taken)) < LOOKED_AT:
            taken.append(tokens[:LOOKED_AT])
    return taken
