"""A model in transformers with the interface that a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...experts import (
    Document,
    Observations,
    StreamMeans,
    encode_batch,
    expert_usage,
    mean_streams,
    observe,
)
from ...experts.tokenizer import Tokenizer
from ...models.loading import LoadedModel, SaliencyModel
from ...models.prompt_format import PLAIN, PromptFormat
from ...steering import (
    Measured,
    ModelIdentity,
    ModelProber,
    ProbeReport,
    Profile,
    Steering,
    add_zero_biases,
)
from ..base import BATCH_TOKENS, Advance, Settings, pass_identity
from ..generation import ModelGeneration
from ..lm import EngineLM
from .answers import greedy_answers
from .generate import generation_of
from .lm import TransformersLM


@dataclass(frozen=True)
class TransformersEngine:
    """A model in transformers, for all methods, including those that need its modules."""

    loaded: LoadedModel
    batch_tokens: int = BATCH_TOKENS
    name: str = "transformers"
    _measured: Measured = field(default_factory=Measured, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Add zero biases to the routers on a GPU, so that base is the same program as steered."""
        add_zero_biases(self.loaded.model)

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model."""
        return self.loaded.identity

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return self.loaded.tokenizer

    @property
    def dtype(self) -> str:
        """The name of the model's dtype, such as `float32`."""
        return self.loaded.dtype

    @property
    def device(self) -> str:
        """The type of the device, such as `cuda`."""
        return str(self.loaded.model.device.type)

    @property
    def experts_implementation(self) -> str:
        """The name of transformers' implementation of the experts."""
        return self.loaded.experts_implementation

    @property
    def settings(self) -> Settings:
        """The method of computing attention, if one was named."""
        named = self.loaded.attn_implementation
        return {} if named is None else {"attn_implementation": named}

    @property
    def versions(self) -> Mapping[str, str]:
        """An empty mapping: every run already records the packages that this engine needs."""
        return {}

    @property
    def parameters(self) -> int:
        """The number of the model's parameters."""
        return sum(parameter.numel() for parameter in self.loaded.model.parameters())

    @property
    def generation(self) -> ModelGeneration:
        """The checkpoint's ends of text and decoding settings."""
        return generation_of(self.loaded)

    def language_model(
        self,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> EngineLM:
        """Return the model as an LM of lm-eval."""
        return TransformersLM(self.loaded, self.batch_tokens, prompt_format, seed, defaults)

    def steer(self, profile: Profile) -> AbstractContextManager[object]:
        """Steer by a profile inside the context."""
        return Steering(self.loaded.model, profile, self._measured)

    def probe(self, profile: Profile, texts: Sequence[str]) -> ProbeReport:
        """Run the null probe and the effect probe on one batch of all texts."""
        return self.prober(texts).probe(profile)

    def prober(self, texts: Sequence[str]) -> ModelProber:
        """Return a prober of many profiles on one batch of all texts."""
        model = self.loaded.model
        batch = encode_batch(self.tokenizer, texts, model.device)
        return ModelProber(model, *batch, self._measured)

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Compute the share of tokens that select each expert by `expert_usage`."""
        return expert_usage(self.loaded.model, self.tokenizer, texts, self.identity.sites)

    def reader(self) -> SaliencyModel:
        """Return this model as the model whose gradients give token saliency."""
        return SaliencyModel(self.loaded.model, self.tokenizer, self.identity.fingerprint)

    def answers(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        """Generate greedy completions of at most `limit` tokens."""
        return greedy_answers(self.loaded, prompts, limit, self.batch_tokens)

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
        """Record a pass over documents by `experts.observe`."""
        return observe(
            self.loaded.model,
            documents,
            root,
            saliency_model=None if reader is None else reader.model,
            contributions=contributions,
            spread=True,
            activity=activity,
            sites=self.identity.sites,
            identity=pass_identity(self, reader),
            advance=advance,
        )

    def mean_streams(
        self, documents: Sequence[Document], root: Path, advance: Advance
    ) -> StreamMeans:
        """Average the residual stream over documents by `experts.mean_streams`."""
        identity = pass_identity(self, None)
        return mean_streams(
            self.loaded.model,
            documents,
            root,
            sites=self.identity.sites,
            identity=identity,
            advance=advance,
        )

    def close(self) -> None:
        """Ignore the call: Python frees the model when nothing refers to it any more."""
