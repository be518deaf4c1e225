"""The interface that a run needs of every engine: one model that answers, steered in place.

Identification, tuning, probes and cells use a model only through `Engine`. The engine of
transformers is in `transformers/engine.py`, that of vLLM in `vllm/engine.py`.
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

from ..experts import Document, Observations, StreamMeans
from ..experts.tokenizer import Tokenizer
from ..models.loading import SaliencyModel
from ..models.prompt_format import PLAIN, PromptFormat
from ..steering import ModelIdentity, Profile
from .generation import ModelGeneration

if TYPE_CHECKING:
    from .lm import EngineLM

Advance = Callable[[int], None]
Settings = Mapping[str, int | bool | str]

BATCH_TOKENS = 8192
"""The default limit of tokens per forward pass."""


class Figures(Protocol):
    """The results of the probes."""

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the figures for `cell.json`."""


class Prober(Protocol):
    """A prober of many profiles on the same texts; shared results are computed once."""

    def probe(self, profile: Profile, must_act: bool = True) -> Figures:
        """Run the null probe and the effect probe; see `ModelProber.probe`."""


class Engine(Protocol):
    """A model in an engine."""

    @property
    def name(self) -> str:
        """The name of the engine in plans, profiles and cells."""

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""

    @property
    def dtype(self) -> str:
        """The name of the model's dtype, such as `float32`."""

    @property
    def device(self) -> str:
        """The type of the device, such as `cuda`."""

    @property
    def experts_implementation(self) -> str:
        """The implementation that computes the experts; numbers may differ between them."""

    @property
    def settings(self) -> Settings:
        """Further settings of the engine on which numbers may depend."""

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of packages that only this engine needs."""

    @property
    def parameters(self) -> int | None:
        """The number of the model's parameters; None if it is not known."""

    @property
    def generation(self) -> ModelGeneration:
        """The checkpoint's ends of text and decoding settings."""

    def language_model(
        self,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> EngineLM:
        """Return the model as an LM of lm-eval; inside `steer` its answers are steered.

        Args:
            prompt_format: the format of prompts, and where answers begin.
            seed: the random seed for tasks that request sampling.
            defaults: generation settings that apply if a task does not set them.
        """

    def steer(self, profile: Profile) -> AbstractContextManager[object]:
        """Steer by `profile` inside the context.

        Raises:
            SteeringError: this model cannot be steered by this profile.
        """

    def probe(self, profile: Profile, texts: Sequence[str]) -> Figures:
        """Run the null probe and the effect probe on texts; see `steering.probes`.

        Raises:
            SteeringError: this model cannot be steered by this profile, or a probe failed.
        """

    def prober(self, texts: Sequence[str]) -> Prober:
        """Return a prober of many profiles on texts, for tuning; see `steering.ModelProber`."""

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Compute the share of the texts' tokens that select each expert; see `expert_usage`."""

    def reader(self) -> SaliencyModel:
        """Return this model as the model whose gradients give token saliency.

        Raises:
            UserError: the engine computes no gradients.
        """

    def answers(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        """Generate greedy completions of at most `limit` tokens."""

    def observe(
        self,
        documents: Sequence[Document],
        root: Path,
        *,
        reader: SaliencyModel | None,
        contributions: bool,
        activity: bool = False,
        advance: Advance,
    ) -> Observations:
        """Record a pass over documents; see `experts.observe`.

        Args:
            documents: as in `experts.observe`.
            root: as in `experts.observe`.
            reader: the model whose gradients give the saliency; None for no saliency.
            contributions: as in `experts.observe`.
            activity: as in `experts.observe`.
            advance: as in `experts.observe`.

        Raises:
            UserError: the engine does not show the requested values.
        """

    def mean_streams(
        self, documents: Sequence[Document], root: Path, advance: Advance
    ) -> StreamMeans:
        """Average the residual stream over documents; see `experts.mean_streams`.

        Raises:
            UserError: the engine does not show the residual stream.
        """

    def close(self) -> None:
        """Stop the engine and free its memory; it cannot be used afterwards."""


def run_facts(engine: Engine) -> str:
    """Return as JSON all facts on which the numbers of a forward pass may depend.

    Only the model and the texts are left out.
    """
    axes = [engine.name, engine.device, engine.dtype, engine.experts_implementation]
    packages = {name: version(name) for name in ("torch", "transformers")}
    return json.dumps([*axes, {**engine.settings}, {**packages, **engine.versions}])


def pass_identity(engine: Engine, reader: SaliencyModel | None) -> str:
    """Return as JSON all facts on which a pass depends, except its documents."""
    saliency = None if reader is None else reader.fingerprint
    model = engine.identity
    return json.dumps([model.fingerprint, model.routers, run_facts(engine), saliency])
