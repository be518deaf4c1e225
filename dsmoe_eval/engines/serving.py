"""What a run needs of an engine, whichever it is: one model that answers, steered in place.

Identification, tuning, probes and cells know a model only as a `Serving`. Here is that of
transformers; vLLM's is in `vllm/serving.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..experts import Document, Observations, encode_batch, expert_usage, observe
from ..steering import ModelIdentity, ProbeReport, Profile, probe, steer
from .answers import greedy_answers
from .loading import LoadedModel, Reader, load_model, load_tokenizer

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


class Serving(Protocol):
    """A model in an engine."""

    @property
    def name(self) -> str:
        """Of the engine, as plans, profiles and cells say it."""

    @property
    def identity(self) -> ModelIdentity:
        """Of the model."""

    @property
    def tokenizer(self) -> Any:
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
    def lm(self) -> EngineLM:
        """The model for lm-eval, as it stands: steered within `steer`."""

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

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Share of the texts' tokens that each expert is selected for; see `expert_usage`."""

    def reader(self) -> Reader:
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
        reader: Reader | None,
        contributions: bool,
        advance: Advance,
    ) -> Observations:
        """A pass; see `experts.observe`. `reader` tells saliency, or nobody does.

        Raises:
            UserError: the engine cannot show what is asked for.
        """

    def close(self) -> None:
        """Give back what the engine holds; it serves no more."""


def run_facts(serving: Serving) -> str:
    """All but model and texts that a forward's numbers may depend on."""
    axes = [serving.name, serving.device, serving.dtype, serving.experts_implementation]
    packages = {name: version(name) for name in ("torch", "transformers")}
    return json.dumps([*axes, {**serving.settings}, {**packages, **serving.versions}])


def pass_identity(serving: Serving, reader: Reader | None) -> str:
    """All but the documents that a pass depends on."""
    saliency = None if reader is None else reader.fingerprint
    model = serving.identity
    return json.dumps([model.fingerprint, model.routers, run_facts(serving), saliency])


@dataclass(frozen=True)
class TransformersServing:
    """A model in transformers: all methods, and whatever else needs the modules themselves."""

    loaded: LoadedModel
    batch_tokens: int = BATCH_TOKENS
    name: str = "transformers"

    @property
    def identity(self) -> ModelIdentity:
        """Of the model."""
        return self.loaded.identity

    @property
    def tokenizer(self) -> Any:
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

    @cached_property
    def lm(self) -> EngineLM:
        """The model for lm-eval."""
        from .transformers import TransformersLM

        return TransformersLM(self.loaded, self.batch_tokens)

    def steer(self, profile: Profile) -> AbstractContextManager[object]:
        """Steer inside the context."""
        return steer(self.loaded.model, profile)

    def probe(self, profile: Profile, texts: Sequence[str]) -> ProbeReport:
        """The probes, on one batch of all texts."""
        model = self.loaded.model
        return probe(model, profile, *encode_batch(self.tokenizer, texts, model.device))

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """As `expert_usage`."""
        return expert_usage(self.loaded.model, self.tokenizer, texts)

    def reader(self) -> Reader:
        """The model itself."""
        return Reader(self.loaded.model, self.tokenizer, self.identity.fingerprint)

    def answers(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        """Greedy continuations of at most `limit` tokens."""
        return greedy_answers(self.loaded, prompts, limit)

    def observe(
        self,
        documents: Sequence[Document],
        root: Path,
        *,
        reader: Reader | None,
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


def load_serving(
    model: str,
    engine: str = "transformers",
    device: str | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    **vllm_options: Any,
) -> Serving:
    """Load a model into an engine.

    Args:
        model: as for `load_model`.
        engine: `transformers` or `vllm`.
        device: of transformers; vLLM sees to its own.
        batch_tokens: most tokens in a forward.
        vllm_options: vLLM's own, such as `tensor_parallel_size`.

    Raises:
        UserError: the model or the engine is not to be had.
    """
    if engine == "transformers":
        return TransformersServing(load_model(model, device), batch_tokens)
    if device is not None:
        raise UserError("--device is for the transformers engine; vLLM takes what it finds")
    from .vllm.serving import start

    return start(model, load_tokenizer(model), batch_tokens, **vllm_options)
