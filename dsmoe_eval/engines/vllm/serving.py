"""A model in vLLM, as a run needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError
from ...experts import Document, Observations, Shape, encode_documents, observe_routed
from ...experts.tokenizer import Tokenizer
from ...models.loading import Reader, count_parameters
from ...models.prompt_format import PLAIN, PromptFormat
from ...steering import ModelIdentity, Profile
from ..base import Advance, Settings, pass_identity
from .engine import VllmEngine, VllmProbeReport

if TYPE_CHECKING:
    from ..lm import EngineLM

_SEQUENCES = 256
"""At once, at most: vLLM's default for small GPUs, so that batches are alike on all."""


@dataclass(frozen=True, slots=True)
class VllmProber:
    """Probes profiles on the same prompts."""

    engine: VllmEngine
    prompts: Sequence[Sequence[int]]

    def probe(self, profile: Profile) -> VllmProbeReport:
        """As `VllmEngine.probe`."""
        return self.engine.probe(profile, self.prompts)


@dataclass(frozen=True)
class VllmServing:
    """A running engine; it has no gradients and shows no experts' outputs."""

    engine: VllmEngine
    tokenizer: Tokenizer
    name: str = "vllm"

    @property
    def identity(self) -> ModelIdentity:
        """Of the model."""
        return self.engine.identity

    @property
    def dtype(self) -> str:
        """Such as `bfloat16`."""
        return str(self.engine.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """Its kind, such as `cuda`."""
        return self.engine.device

    @property
    def experts_implementation(self) -> str:
        """Always vLLM's own."""
        return "vllm"

    @property
    def settings(self) -> Settings:
        """How it is spread over devices, and whether it is compiled."""
        return self.engine.settings

    @property
    def versions(self) -> Mapping[str, str]:
        """That of vLLM."""
        return {"vllm": self.engine.version}

    @property
    def parameters(self) -> int | None:
        """As transformers counts them: vLLM packs weights, and spreads them over devices."""
        return count_parameters(self.identity.name)

    def language_model(self, prompt_format: PromptFormat = PLAIN, seed: int = 0) -> EngineLM:
        """Return the model as lm-eval asks it."""
        from .lm import VllmLM

        return VllmLM(self.engine, self.tokenizer, prompt_format, seed)

    def steer(self, profile: Profile) -> AbstractContextManager[object]:
        """Steer inside the context; nothing is loaded again."""
        return self.engine.steer(profile)

    def probe(self, profile: Profile, texts: Sequence[str]) -> VllmProbeReport:
        """The probes, at the texts' next tokens."""
        return self.prober(texts).probe(profile)

    def prober(self, texts: Sequence[str]) -> VllmProber:
        """Return what probes many profiles, each whole: vLLM's own batching is what is probed."""
        return VllmProber(self.engine, self.tokenizer(list(texts))["input_ids"])

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """As `expert_usage`.

        Raises:
            SteeringError: routing cannot be watched; see `VllmEngine.routing`.
        """
        documents = encode_documents(self.tokenizer, {"all": texts})
        routed = self.engine.routing([document.tokens for document in documents])
        chosen = torch.cat(
            [
                one.experts[torch.tensor(document.kept).bool()]
                for one, document in zip(routed, documents, strict=True)
            ]
        )
        counts = [
            np.bincount(layer.flatten().numpy(), minlength=self.identity.experts)
            for layer in chosen.unbind(1)
        ]
        share: NDArray[np.float64] = np.stack(counts) / len(chosen)
        return share

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
        """As `experts.observe_routed`.

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

    def close(self) -> None:
        """End vLLM's processes and free its memory."""
        self.engine.close()


def start(model: str, tokenizer: Tokenizer, batch_tokens: int, **options: Any) -> VllmServing:
    """Start an engine whose routing is seen.

    Args:
        model: as for `load_model`.
        tokenizer: the model's.
        batch_tokens: most tokens in a forward.
        options: more of vLLM's own, such as `tensor_parallel_size`.

    Raises:
        UserError: vLLM is not installed, or cannot run this model.
        SteeringError: its routers cannot be steered.
    """
    settings: dict[str, Any] = {
        # A compiled model answers faster, but shows no routing, by which every run finds experts
        # and proves its steering; with a second engine for the answers, more would differ.
        "enforce_eager": True,
        "skip_tokenizer_init": False,  # stop strings are found in text
        "max_model_len": -1,  # as long as the model allows and its cache has room for
        "max_num_batched_tokens": batch_tokens,
        "max_num_seqs": min(_SEQUENCES, batch_tokens),
    }
    return VllmServing(VllmEngine(model, **settings, **options), tokenizer)
