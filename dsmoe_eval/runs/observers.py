"""Who shows the routing of identification text: a loaded model, or a running vLLM engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from ..engines import LoadedModel, Reader, greedy_answers
from ..experts import Document, Observations, observe
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
