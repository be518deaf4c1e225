"""What a run needs of an engine, whichever it is: one model that answers, steered in place.

Identification, tuning, probes and cells know a model only as a `Engine`. That of
transformers is in `transformers/engine.py`, vLLM's in `vllm/engine.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ..experts import Document, Observations
from ..experts.tokenizer import Tokenizer
from ..models.loading import SaliencyModel
from ..models.prompt_format import PLAIN, PromptFormat
from ..steering import ModelIdentity, Profile
from .generation import ModelGeneration

if TYPE_CHECKING:
    from .lm import EngineLM

Advance = Callable[[int], None]
Settings = Mapping[str, int | bool]

BATCH_TOKENS = 8192
"""Most tokens in a forward, where nobody says."""


class Figures(Protocol):
    """What probes found."""

    def to_dict(self) -> dict[str, float | int | None]:
        """For `cell.json`."""


class Prober(Protocol):
    """Probes many profiles on the same texts; what they share is computed once."""

    def probe(self, profile: Profile) -> Figures:
        """Run the null probe and the effect probe; see `Engine.probe`."""


class Engine(Protocol):
    """A model in an engine."""

    @property
    def name(self) -> str:
        """Of the engine, as plans, profiles and cells say it."""

    @property
    def identity(self) -> ModelIdentity:
        """Of the model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""

    @property
    def dtype(self) -> str:
        """Such as `float32`."""

    @property
    def device(self) -> str:
        """Its kind, such as `cuda`."""

    @property
    def experts_implementation(self) -> str:
        """Who computes the experts; an axis on which numbers may differ."""

    @property
    def settings(self) -> Settings:
        """Further ones of the engine on which numbers may differ."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Of packages that this engine alone needs."""

    @property
    def parameters(self) -> int | None:
        """How many the model has; None where that is not known."""

    @property
    def generation(self) -> ModelGeneration:
        """What the checkpoint says of decoding."""

    def language_model(
        self,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> EngineLM:
        """Return the model as lm-eval asks it; it answers steered within `steer`.

        Args:
            prompt_format: how prompts stand, and where answers begin.
            seed: of what is drawn where a task asks for sampling.
            defaults: generation settings that act where a task sets nothing.
        """

    def steer(self, profile: Profile) -> AbstractContextManager[object]:
        """Steer by `profile` inside the context.

        Raises:
            SteeringError: it is not possible on this model.
        """

    def probe(self, profile: Profile, texts: Sequence[str]) -> Figures:
        """The null probe and the effect probe on texts; see `steering.probes`.

        Raises:
            SteeringError: the profile is not possible on this model, or a probe failed.
        """

    def prober(self, texts: Sequence[str]) -> Prober:
        """Return what probes many profiles on texts, as tuning does; see `steering.ModelProber`."""

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Share of the texts' tokens that each expert is selected for; see `expert_usage`."""

    def reader(self) -> SaliencyModel:
        """The model itself as what tells token saliency.

        Raises:
            UserError: the engine computes no gradients.
        """

    def answers(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        """Greedy continuations of at most `limit` tokens."""

    def observe(
        self,
        documents: Sequence[Document],
        root: Path,
        *,
        reader: SaliencyModel | None,
        contributions: bool,
        advance: Advance,
    ) -> Observations:
        """A pass; see `experts.observe`. `reader` tells saliency, or nobody does.

        Raises:
            UserError: the engine cannot show what is asked for.
        """

    def close(self) -> None:
        """Give back what the engine holds; it serves no more."""


def run_facts(engine: Engine) -> str:
    """All but model and texts that a forward's numbers may depend on."""
    axes = [engine.name, engine.device, engine.dtype, engine.experts_implementation]
    packages = {name: version(name) for name in ("torch", "transformers")}
    return json.dumps([*axes, {**engine.settings}, {**packages, **engine.versions}])


def pass_identity(engine: Engine, reader: SaliencyModel | None) -> str:
    """All but the documents that a pass depends on."""
    saliency = None if reader is None else reader.fingerprint
    model = engine.identity
    return json.dumps([model.fingerprint, model.routers, run_facts(engine), saliency])
