"""A model in vLLM with the interface that a run needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError
from ...experts import (
    Document,
    Observations,
    Shape,
    StreamMeans,
    encode_documents,
    observe_routed,
    sum_streams,
)
from ...experts.batching import batches
from ...experts.tokenizer import Tokenizer
from ...models.loading import SaliencyModel
from ...models.prompt_format import PLAIN, PromptFormat
from ...models.sizes import count_parameters
from ...steering import EXPERTS, ModelIdentity, Profile, SteeringError
from ..base import Advance, Settings, pass_identity
from ..generation import ModelGeneration, model_generation
from .probe_report import VllmProbeReport
from .steered_vllm import SteeredVllm
from .table import DEFAULT_CAPACITY
from .together import Meeting

if TYPE_CHECKING:
    from ..lm import EngineLM

Result = TypeVar("Result")

_SUMMED_AT_ONCE = 4096
"""Number of tokens after which sums of the residual stream are stored."""
_SEQUENCES = 256
"""Limit of concurrent sequences: vLLM's default for small GPUs, so that all GPUs batch alike."""


@dataclass(frozen=True, slots=True)
class VllmProber:
    """A prober of profiles on the same prompts."""

    engine: SteeredVllm
    prompts: Sequence[Sequence[int]]

    def probe(self, profile: Profile, must_act: bool = True) -> VllmProbeReport:
        """Probe a profile by `SteeredVllm.probe`."""
        return self.engine.probe(profile, self.prompts, must_act)


@dataclass(frozen=True)
class VllmEngine:
    """A running engine, without gradients and without access to experts' outputs."""

    engine: SteeredVllm
    tokenizer: Tokenizer
    name: str = "vllm"

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model."""
        return self.engine.identity

    @property
    def dtype(self) -> str:
        """The name of the model's dtype, such as `bfloat16`."""
        return str(self.engine.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """The type of the device, such as `cuda`."""
        return self.engine.device

    @property
    def experts_implementation(self) -> str:
        """Always `vllm`."""
        return "vllm"

    @property
    def settings(self) -> Settings:
        """The distribution over devices, and whether the model is run eagerly."""
        return self.engine.settings

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of vLLM."""
        return {"vllm": self.engine.version}

    @property
    def parameters(self) -> int | None:
        """The parameter count of transformers: vLLM packs weights and distributes them."""
        return count_parameters(self.identity.name)

    @property
    def generation(self) -> ModelGeneration:
        """The settings of decoding that the checkpoint brings."""
        return model_generation(self.engine.generation, self.tokenizer)

    def language_model(
        self,
        prompt_format: PromptFormat = PLAIN,
        seed: int = 0,
        defaults: Mapping[str, object] | None = None,
    ) -> EngineLM:
        """Return the model as an LM of lm-eval."""
        from .lm import VllmLM

        return VllmLM(self.engine, self.tokenizer, prompt_format, seed, defaults)

    def steer(self, profile: Profile) -> AbstractContextManager[object]:
        """Steer by a profile inside the context; nothing is loaded again."""
        return self.engine.steer(profile)

    def steer_each(
        self,
        lm: EngineLM,
        profiles: Sequence[Profile],
        callers: Sequence[Callable[[EngineLM], Result]],
    ) -> list[Result]:
        """Call each function with the LM steered by its profile, and return the results.

        The requests of all are in common batches, except where a profile can steer the whole engine
        only; these functions are called one after another.

        Args:
            lm: an LM of this engine.
            profiles: one for each function.
            callers: functions that send requests to the LM; they run in threads, one at a time.
        """
        results: list[Result] = []
        for start in range(0, len(profiles), DEFAULT_CAPACITY):  # as many as vLLM has room for
            some = slice(start, start + DEFAULT_CAPACITY)
            results += self._steer_some(lm, profiles[some], callers[some])
        return results

    def _steer_some(
        self,
        lm: EngineLM,
        profiles: Sequence[Profile],
        callers: Sequence[Callable[[EngineLM], Result]],
    ) -> list[Result]:
        results: dict[int, Result] = {}
        with ExitStack() as loaded:
            joined = [i for i, profile in enumerate(profiles) if self._loaded(profile, loaded)]
            results |= zip(joined, self._together(lm, profiles, callers, joined), strict=True)
        for place, profile in enumerate(profiles):
            if place not in results:
                with self.steer(profile):
                    results[place] = callers[place](lm)
        return [results[place] for place in range(len(profiles))]

    def _together(
        self,
        lm: EngineLM,
        profiles: Sequence[Profile],
        callers: Sequence[Callable[[EngineLM], Result]],
        joined: Sequence[int],
    ) -> list[Result]:
        from .lm import BatchReplies, CallerBatch, VllmLM

        if not isinstance(lm, VllmLM):
            raise TypeError(f"{type(lm).__name__} is not an LM of this engine")

        def call(place: int, ask: Callable[[CallerBatch], BatchReplies]) -> Result:
            return callers[place](lm.joining(profiles[place].id, ask, len(joined)))

        return Meeting(lm.reply).run([partial(call, place) for place in joined])

    def _loaded(self, profile: Profile, loaded: ExitStack) -> bool:
        """Load a profile until `loaded` is closed; return whether requests can name it."""
        if profile.id in self.engine.profiles():
            return True
        try:
            self.engine.load(profile)
        except SteeringError:
            return False
        loaded.callback(self.engine.drop, profile.id)
        return True

    def probe(self, profile: Profile, texts: Sequence[str]) -> VllmProbeReport:
        """Probe a profile at the next tokens of texts."""
        return self.prober(texts).probe(profile)

    def prober(self, texts: Sequence[str]) -> VllmProber:
        """Return a prober of many profiles, each in full, since vLLM's batching is probed too."""
        return VllmProber(self.engine, self.tokenizer(list(texts))["input_ids"])

    def usage(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Compute the use of experts on texts; see `expert_usage`.

        Raises:
            SteeringError: routing cannot be recorded; see `SteeredVllm.routing`.
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

    def reader(self) -> SaliencyModel:
        """Raise an error: vLLM computes no gradients.

        Raises:
            UserError: always.
        """
        raise UserError(
            "vLLM computes no gradients, so token saliency must come from elsewhere: give "
            "--saliency-model (a small model of the same tokenizer will do), or a method without "
            "saliency, such as risk-difference"
        )

    def answers(self, prompts: Sequence[Sequence[int]], limit: int) -> list[tuple[int, ...]]:
        """Generate greedy completions of at most `limit` tokens."""
        ends = [self.tokenizer.eos_token_id]
        return [tuple(answer) for answer in self.engine.generate(prompts, limit, ends)]

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
        """Record the routing of documents by `experts.observe_routed`.

        Raises:
            UserError: the request includes contributions, or the activity of neurons, which vLLM
                does not show.
        """
        if activity and self.identity.sites != EXPERTS:  # an expert is active if it is selected
            raise UserError(
                "vLLM does not show which neurons are active; lape on neurons needs the "
                "transformers engine"
            )
        if contributions:
            raise UserError(
                "vLLM does not show experts' outputs; easy-ep needs the transformers engine"
            )
        first = self.engine.layers[0]
        return observe_routed(
            documents,
            lambda batch: [
                (one.experts, one.weights, one.spread)
                for one in self.engine.routing([document.tokens for document in batch])
            ],
            Shape(self.identity.layers, int(first["experts"]), int(first["top_k"])),
            root,
            saliency_model=None if reader is None else reader.model,
            spread=self.identity.sites == EXPERTS,
            identity=pass_identity(self, reader),
            advance=advance,
        )

    def mean_streams(
        self, documents: Sequence[Document], root: Path, advance: Advance
    ) -> StreamMeans:
        """Average the residual stream over documents, one at a time."""
        domains = list(dict.fromkeys(one.domain for one in documents))

        def sums(batch: Sequence[int]) -> torch.Tensor:
            chosen = [documents[index] for index in batch]
            rows = [(domains.index(one.domain), one.tokens, one.kept) for one in chosen]
            return self.engine.sum_streams(rows, len(domains))

        plan = batches(documents, _SUMMED_AT_ONCE)
        identity = pass_identity(self, None)
        return sum_streams(documents, plan, sums, root, identity=identity, advance=advance)

    def close(self) -> None:
        """Stop vLLM's processes and free its memory."""
        self.engine.close()


def start(model: str, tokenizer: Tokenizer, batch_tokens: int, **options: Any) -> VllmEngine:
    """Start an engine, which is compiled unless the options have `enforce_eager=True`.

    An eager engine is slower, but its routing and its residual stream can be recorded, and vectors
    can be added to the stream.

    Args:
        model: as for `load_model`.
        tokenizer: the model's tokenizer.
        batch_tokens: limit of tokens per forward pass.
        options: further arguments of `SteeredVllm`: `sites`, and options of vLLM, such as
            `tensor_parallel_size`.

    Raises:
        UserError: vLLM is not installed, or cannot run this model.
        SteeringError: the model's routers cannot be steered.
    """
    return VllmEngine(SteeredVllm(model, **engine_options(batch_tokens, options)), tokenizer)


def engine_options(batch_tokens: int, options: Mapping[str, object]) -> dict[str, Any]:
    """Return the arguments of `SteeredVllm`, all but the name; see `start`."""
    return {
        "enforce_eager": False,
        "skip_tokenizer_init": False,  # stop strings are matched in text
        "max_model_len": -1,  # as long as the model allows and its cache has room for
        "max_num_batched_tokens": batch_tokens,
        "max_num_seqs": min(_SEQUENCES, batch_tokens),
        **options,
    }
