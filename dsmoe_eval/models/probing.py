"""Probing of a model without a suite: every kind of intervention on random tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..steering import (
    ChosenExpert,
    Intervention,
    ModelIdentity,
    NeuronSite,
    ProbeError,
    ProbeReport,
    Profile,
    Router,
    Scoring,
    Site,
    Source,
    SteeringError,
    describe_scoring,
    find_sites,
    probe,
    routers_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TEXTS, _LENGTH, _SEED = 16, 32, 0

_INTERVENTIONS = {
    "reweight": Intervention(kind="reweight", strength=4.0),
    "bias": Intervention(kind="bias", strength=19.0),
    "bias, score channel": Intervention(kind="bias", strength=1.0, channel="score"),
    "amplify": Intervention(kind="amplify", strength=4.0),
    "force": Intervention(kind="force", strength=0.01),
    "mask": Intervention(kind="mask", strength=1.0),
}


@dataclass(frozen=True, slots=True)
class InterventionProbe:
    """The result of one intervention: figures, the reason for a refusal, or the failure."""

    name: str
    figures: ProbeReport | None = None
    refused: str | None = None
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class ModelProbe:
    """A model's routers and the result of each intervention on them.

    `layers` are the layers with experts; `scoring` is None if the routers cannot be measured
    (MXFP4 kernels), or `units` are neurons.
    """

    model: str
    layers: tuple[int, ...]
    router: str
    experts: int
    top_k: int
    scoring: Scoring | None
    interventions: tuple[InterventionProbe, ...]
    units: str = "experts"

    @property
    def passed(self) -> bool:
        """True if no intervention failed and at least one was possible."""
        rows = self.interventions
        return all(row.failed is None for row in rows) and any(row.figures for row in rows)

    def to_dict(self) -> dict[str, object]:
        """Return the report for `--json`."""
        return {**asdict(self), "passed": self.passed}


def probe_model(
    model: PreTrainedModel, identity: ModelIdentity, profile: Profile | None = None
) -> ModelProbe:
    """Probe every kind of intervention, or one profile, on random tokens with padding.

    Args:
        model: a transformers causal language model, not steered.
        identity: the model's identity.
        profile: the profile to probe; by default each kind of intervention is probed on expert 0
            of every layer.

    Raises:
        SteeringError: the model's routers are unknown or cannot be measured, or the profile is for
            another model or not possible on this one.
    """
    found = find_sites(model, identity.sites)
    routers = routers_of(found)
    scoring = _common_scoring(routers) if routers else None
    batch = random_batch(model)
    if profile is not None:
        rows = [_probe_one(model, profile.intervention.kind, profile, batch)]
        if rows[0].refused:
            raise SteeringError(rows[0].refused)
    else:
        rows = [_probe_one(model, *named, batch) for named in _profiles(identity, scoring)]
    first = found[0]
    return ModelProbe(
        model=identity.name,
        layers=identity.layers,
        router=_router_name(first),
        experts=first.experts,
        top_k=first.top_k,
        scoring=scoring,
        interventions=tuple(rows),
        units=identity.sites.noun,
    )


def trial_profile(
    identity: ModelIdentity, intervention: Intervention, experts: Iterable[int]
) -> Profile:
    """Build a profile of the same experts in every layer, without text, for probes and timing."""
    experts = tuple(experts)
    return Profile(
        model=identity,
        method="trial",
        experts=tuple(
            ChosenExpert(layer=layer, expert=expert, score=0.0)
            for layer in identity.layers
            for expert in experts
        ),
        intervention=intervention,
        source=Source(suite="none", domain="none", split="none", items=()),
    )


def _router_name(router: Site) -> str:
    if isinstance(router, NeuronSite):
        return f"FFN {router.name}"
    name = type(router.module).__name__
    return name if router.selects else f"{name} of {type(router.block).__name__}"


def _common_scoring(routers: tuple[Router, ...]) -> Scoring | None:
    if routers[0].native_only:
        return None
    found = [describe_scoring(router) for router in routers]
    if len(set(found)) > 1:
        raise SteeringError(f"the layers' routers score by different rules: {set(found)}")
    return found[0]


def _profiles(identity: ModelIdentity, scoring: Scoring | None) -> Iterator[tuple[str, Profile]]:
    for name, intervention in _INTERVENTIONS.items():
        if intervention.channel == "score" and not (scoring and scoring.correction_bias):
            continue  # only routers with a correction bias have this channel
        yield name, trial_profile(identity, intervention, [0])


def _probe_one(
    model: PreTrainedModel, name: str, profile: Profile, batch: tuple[Tensor, Tensor]
) -> InterventionProbe:
    try:
        return InterventionProbe(name, figures=probe(model, profile, *batch))
    except ProbeError as error:
        return InterventionProbe(name, failed=str(error))
    except SteeringError as error:
        return InterventionProbe(name, refused=str(error))


def random_batch(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Return random input ids and their attention mask, [texts, length] each.

    Every second text has padding on the left for half of its length.
    """
    generator = torch.Generator().manual_seed(_SEED)
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (_TEXTS, _LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::2, : _LENGTH // 2] = 0
    return ids.to(model.device), mask.to(model.device)
