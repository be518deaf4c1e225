"""Who shows the routing of identification text: a loaded model, or a running vLLM engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from ..engines import (
    LoadedModel,
    Reader,
    VllmEngine,
    greedy_answers,
    load_model,
    load_tokenizer,
)
from ..errors import UserError
from ..experts import Document, Observations, Shape, observe, observe_routed
from ..steering import ModelIdentity

Advance = Callable[[int], None]


class Observer(Protocol):
    """What identification needs of an engine."""

    @property
    def name(self) -> str:
        """Of the engine, as profiles say it."""

    @property
    def identity(self) -> ModelIdentity:
        """Of the model."""

    @property
    def tokenizer(self) -> Any:
        """Of the model."""

    @property
    def key(self) -> str:
        """Everything else that routing depends on."""

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
        """A pass; see `experts.observe`. `reader` tells saliency, or nobody does."""


def pass_identity(observer: Observer, reader: Reader | None) -> str:
    """All but the documents that a pass depends on."""
    saliency = None if reader is None else reader.fingerprint
    model = observer.identity
    return json.dumps([model.fingerprint, model.routers, observer.name, observer.key, saliency])


@dataclass(frozen=True)
class TransformersObserver:
    """The transformers engine: routing, saliency and contributions from one pass."""

    loaded: LoadedModel
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
    def key(self) -> str:
        """Device, precision, implementation and versions."""
        loaded = self.loaded
        facts = [loaded.model.device.type, loaded.dtype, loaded.experts_implementation]
        return json.dumps([*facts, version("torch"), version("transformers")])

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
        """A pass; see `experts.observe`."""
        return observe(
            self.loaded.model,
            documents,
            root,
            saliency_model=None if reader is None else reader.model,
            contributions=contributions,
            identity=pass_identity(self, reader),
            advance=advance,
        )


@dataclass(frozen=True)
class VllmObserver:
    """A running vLLM engine, eager: routing alone; saliency is another model's."""

    engine: VllmEngine
    tokenizer: Any
    name: str = "vllm"

    @property
    def identity(self) -> ModelIdentity:
        """Of the model."""
        return self.engine.identity

    @property
    def key(self) -> str:
        """Precision and version."""
        return json.dumps([str(self.engine.dtype), version("torch"), self.engine.version])

    def reader(self) -> Reader:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(
            "vLLM computes no gradients, so token saliency must come from elsewhere: give "
            "--saliency-model (a small model of the same tokenizer will do), or a method without "
            "saliency, such as risk-difference"
        )

    def answers(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        """Greedy continuations of at most `limit` tokens."""
        ends = [self.tokenizer.eos_token_id]
        return [tuple(answer) for answer in self.engine.generate(prompts, limit, ends)]

    def observe(
        self,
        documents: Sequence[Document],
        root: Path,
        *,
        reader: Reader | None,
        contributions: bool,
        advance: Advance,
    ) -> Observations:
        """A pass; see `experts.observe_routed`.

        Raises:
            UserError: contributions are asked for, which vLLM does not show.
        """
        if contributions:
            raise UserError(
                "vLLM does not show experts' outputs; easy-ep needs the transformers engine"
            )
        first = self.engine.layers[0]
        return observe_routed(
            documents,
            lambda batch: [
                (one.experts, one.weights)
                for one in self.engine.routing([document.tokens for document in batch])
            ],
            Shape(self.identity.layers, int(first["experts"]), int(first["top_k"])),
            root,
            saliency_model=None if reader is None else reader.model,
            identity=pass_identity(self, reader),
            advance=advance,
        )


def load_observer(model: str, engine: str = "transformers", device: str | None = None) -> Observer:
    """Load a model into the engine that is to show its routing.

    Args:
        model: as for `load_model`.
        engine: `transformers` or `vllm`.
        device: of transformers; vLLM sees to its own.

    Raises:
        UserError: the model or the engine is not to be had.
    """
    if engine == "transformers":
        return TransformersObserver(load_model(model, device))
    if device is not None:
        raise UserError("--device is for the transformers engine; vLLM takes what it finds")
    return VllmObserver(VllmEngine(model, enforce_eager=True), load_tokenizer(model))
