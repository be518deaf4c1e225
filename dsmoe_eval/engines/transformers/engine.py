"""A model in transformers, as a run needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...experts import Document, Observations, encode_batch, expert_usage, observe
from ...experts.tokenizer import Tokenizer
from ...models.loading import LoadedModel, SaliencyModel
from ...models.prompt_format import PLAIN, PromptFormat
from ...steering import ModelIdentity, ModelProber, ProbeReport, Profile, steer
from ..base import BATCH_TOKENS, Advance, Settings, pass_identity
from ..generation import ModelGeneration
from ..lm import EngineLM
from .generate import generation_of, greedy_answers
from .lm import TransformersLM


@dataclass(frozen=True)
class TransformersEngine:
    """A model in transformers: all methods, and whatever else needs the modules themselves."""

    loaded: LoadedModel
    batch_tokens: int = BATCH_TOKENS
    name: str = "transformers"

    @property
    def identity(self) -> ModelIdentity:
        """Of the model."""
        return self.loaded.identity

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self.loaded.tokenizer

    @property
    def dtype(self) -> str:
        """Such as `float32`."""
        return self.loaded.dtype

    @property
    def device(self) -> str:
        """Its kind, such as `cuda`."""
        return str(self.loaded.model.device.type)

    @property
    def experts_implementation(self) -> str:
        """How transformers computes the experts."""
        return self.loaded.experts_implementation

    @property
    def settings(self) -> Settings:
        """None."""
        return {}

    @property
    def versions(self) -> Mapping[str, str]:
        """None: the packages that every run notes are all that it needs."""
        return {}

    @property
    def parameters(self) -> int:
        """How many the model has."""
        return sum(parameter.numel() for parameter in self.loaded.model.parameters())

    @property
    def generation(self) -> ModelGeneration:
        """What the checkpoint says of decoding."""
        return generation_of(self.loaded)

    def language_model(
        self,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> EngineLM:
        """Return the model as lm-eval asks it."""
        return TransformersLM(self.loaded, self.batch_tokens, prompt_format, seed, defaults)

    def steer(self, profile: Profile) -> AbstractContextManager[object]:
        """Steer inside the context."""
        return steer(self.loaded.model, profile)

    def probe(self, profile: Profile, texts: Sequence[str]) -> ProbeReport:
        """The probes, on one batch of all texts."""
        return self.prober(texts).probe(profile)

    def prober(self, texts: Sequence[str]) -> ModelProber:
        """Return what probes many profiles on one batch of all texts."""
        model = self.loaded.model
        return ModelProber(model, *encode_batch(self.tokenizer, texts, model.device))

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """As `expert_usage`."""
        return expert_usage(self.loaded.model, self.tokenizer, texts)

    def reader(self) -> SaliencyModel:
        """The model itself."""
        return SaliencyModel(self.loaded.model, self.tokenizer, self.identity.fingerprint)

    def answers(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        """Greedy continuations of at most `limit` tokens."""
        return greedy_answers(self.loaded, prompts, limit)

    def observe(
        self,
        documents: Sequence[Document],
        root: Path,
        *,
        reader: SaliencyModel | None,
        contributions: bool,
        advance: Advance,
    ) -> Observations:
        """As `experts.observe`."""
        return observe(
            self.loaded.model,
            documents,
            root,
            saliency_model=None if reader is None else reader.model,
            contributions=contributions,
            identity=pass_identity(self, reader),
            advance=advance,
        )

    def close(self) -> None:
        """Nothing to do: the model goes with the last who holds it."""
