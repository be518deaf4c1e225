"""A model that is steered by a profile while it answers, for the adapters to other harnesses."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from weakref import WeakValueDictionary

from ..engines.generation import FILE
from ..engines.transformers.generate import generation_of
from ..errors import EvalWarning
from ..models.loading import LoadedModel, load_model
from ..models.probing import random_batch
from ..steering import EXPERTS, Profile, Sites, probe, steer


class _Shared:
    """A loaded model and the lock that is taken to steer it."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.lock = threading.Lock()


_IN_MEMORY: WeakValueDictionary[tuple[str, str | None, Sites], _Shared] = WeakValueDictionary()


class SteeredModel:
    """A model in memory that is steered only while it answers, so that all profiles share it.

    Before the first answer the profile is checked against the model and probed on random tokens:
    a profile without any effect is an error here.

    Attributes:
        loaded: the model, not steered outside `answering`.
        profile: None for the base model.

    Raises:
        SteeringError: the profile is of another model, or has no meaning on it.
        ProbeError: the profile changes nothing, or changes something at strength zero.
    """

    def __init__(self, loaded: LoadedModel, profile: Profile | None = None) -> None:
        self.loaded, self.profile = loaded, profile
        self._shared = _Shared(loaded)
        self._steering = None
        if profile is not None:
            probe(loaded.model, profile, *random_batch(loaded.model))
            self._steering = steer(loaded.model, profile)

    @classmethod
    def open(
        cls, name: str, profile: str | Path | None = None, device: str | None = None
    ) -> SteeredModel:
        """Load a model and a profile by `load_model` and `Profile.load`; reuse a loaded model.

        Raises:
            UserError: the model cannot be loaded.
            SteeringError: as for the class, or the profile cannot be read.
        """
        chosen = None if profile is None else Profile.load(Path(profile))
        key = (name, device, EXPERTS if chosen is None else chosen.sites)
        shared = _IN_MEMORY.get(key) or _Shared(_load(*key))
        _IN_MEMORY[key] = shared
        with shared.lock:
            steered = cls(shared.loaded, chosen)
        steered._shared = shared
        return steered

    @property
    def name(self) -> str:
        """The model's name, followed by `@` and the profile's id if it is steered."""
        base = self.loaded.identity.name
        return base if self.profile is None else f"{base}@{self.profile.id}"

    @property
    def fingerprint(self) -> str:
        """An identifier that changes with the weights, the configuration and the profile."""
        return f"{self.loaded.identity.fingerprint}@{self.profile.id if self.profile else 'base'}"

    @contextmanager
    def answering(self) -> Iterator[LoadedModel]:
        """Yield the model, steered; only one context per model is active at a time."""
        with self._shared.lock, self._steering or nullcontext():
            yield self.loaded


def _load(name: str, device: str | None, sites: Sites) -> LoadedModel:
    """Load a model; warn of what its checkpoint says of decoding and does not happen here."""
    loaded = load_model(name, device, sites=sites)
    said = generation_of(loaded)
    if said.decoding:
        warnings.warn(
            f"model {name!r}: answers are decoded as the task says; ignored in {FILE}: {said}",
            EvalWarning,
            stacklevel=3,
        )
    return loaded
