"""Probes a loaded model without any suite."""

from __future__ import annotations

import torch

from ..steering import ChosenExpert, Intervention, ProbeReport, Profile, Source, probe
from .loading import LoadedModel

_TEXTS, _LENGTH, _SEED = 16, 32, 0
_STRENGTH = 19.0


def probe_model(loaded: LoadedModel, profile: Profile | None = None) -> ProbeReport:
    """Run the null probe and the effect probe on random tokens.

    Args:
        loaded: the model.
        profile: what to steer by; by default a strong bias on expert 0 of every MoE layer.

    Raises:
        ProbeError: steering does not do what it says on this model.
        SteeringError: the profile is for another model.
    """
    generator = torch.Generator().manual_seed(_SEED)
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (_TEXTS, _LENGTH), generator=generator)
    ids = ids.to(loaded.model.device)
    return probe(loaded.model, profile or _every_layer(loaded), ids, torch.ones_like(ids))


def _every_layer(loaded: LoadedModel) -> Profile:
    layers = loaded.identity.layers
    return Profile(
        model=loaded.identity,
        method="probe",
        experts=tuple(ChosenExpert(layer=layer, expert=0, score=0.0) for layer in layers),
        intervention=Intervention(kind="bias", strength=_STRENGTH),
        source=Source(suite="none", domain="none", split="none", items=()),
    )
