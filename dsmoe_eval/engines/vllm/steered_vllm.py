"""The vLLM engine: a model that vLLM serves, steered in place.

Every worker has the methods of `worker.SteeringExtension`; a profile is applied and removed without
loading or compiling anything again. Either the whole engine is steered; then the prefix cache,
which contains values from before the change, is emptied. Or profiles are loaded, and a request may
name one of them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...models.loading import fingerprint
from ...models.places import locate
from ...steering import EXPERTS, ModelIdentity, Profile, Sites, SteeringError
from ...tasks.language_model import LogLikelihood
from ..requests import Answer, Request
from .facts import read_facts
from .launch import start_llm
from .probe_report import VllmProbeReport
from .probing import probe_engine
from .refusals import agreed, worker_refusals
from .routing import RoutedSequence, assemble
from .sampling import Settings, answering, naming, token_prompt
from .scoring import ScoreRequest
from .streams import read_sums

if TYPE_CHECKING:
    from vllm import RequestOutput

Profiles = Sequence[str | None] | None
"""For each of several prompts the id of a loaded profile or None; None: no prompt has one."""
Prompts = Sequence[Sequence[int]]


class SteeredVllm:
    """A model in vLLM: safetensors only, no remote code.

    Args:
        name: an embedded model, a folder with `config.json`, or `organisation/model`.
        dtype: such as `float32`; `auto` takes the checkpoint's dtype, also float32, which vLLM's
            `auto` would convert to 16 bits.
        sites: the units that are counted and steered: the experts, or a dense model's neurons.
        options: further options of vLLM, such as `tensor_parallel_size` or `enforce_eager`.

    Raises:
        UserError: vLLM is not installed, or cannot run this model.
        SteeringError: vLLM's routers cannot be steered, or differ from the model's; or the model
            has no units of this kind.
    """

    def __init__(
        self, name: str, dtype: str = "auto", sites: Sites = EXPERTS, **options: Any
    ) -> None:
        place = locate(name)
        self._llm = start_llm(name, place, dtype, options)
        self.eager = bool(options.get("enforce_eager"))
        """Whether vLLM runs the model without compiling it, so that it shows its routing."""
        self._decodes = not options.get("skip_tokenizer_init", True)
        self._steered = False
        try:
            routers = self.call("dsmoe_routers", sites.model_dump_json())
        except BaseException:
            self.close()
            raise
        self.layers: tuple[dict[str, Any], ...] = tuple(routers["layers"])
        """`layer`, `experts`, `top_k`, `monolithic` and `scoring` of each layer that is steered."""
        config = self._llm.llm_engine.vllm_config
        self.block = int(config.cache_config.block_size * config.cache_config.enable_prefix_caching)
        """The number of tokens of a block of the prefix cache; 0 if this model has none."""
        facts = read_facts(config)
        self.config = facts.config
        self.dtype = facts.dtype
        self.max_length = facts.max_length
        """The limit of prompt and answer together, in tokens; an answer has at least one token."""
        self.device = facts.device
        self.settings = facts.settings
        self.version = facts.version
        self.generation = facts.generation
        """The settings of the checkpoint's generation_config.json that differ from the defaults."""
        self.identity = ModelIdentity(
            name=name,
            fingerprint=fingerprint(place, self.config),
            routers=routers["hash"],
            layers=tuple(layer["layer"] for layer in self.layers),
            experts=self.layers[0]["experts"],
            sites=sites,
        )

    @contextmanager
    def steer(self, profile: Profile) -> Iterator[None]:
        """Steer by `profile` inside the context; afterwards every bit is as before.

        Raises:
            SteeringError: the model is steered already; or the profile is for another model, has no
                meaning in one of its layers, or cannot reach vLLM's kernels.
        """
        if self._steered:
            raise SteeringError("the model is steered already; remove that steering first")
        self._steered = True
        try:
            self.call("dsmoe_steer", profile.to_json())
            self.forget()
            yield
        finally:
            self.call("dsmoe_remove")
            self.forget()
            self._steered = False

    def load(self, profile: Profile) -> None:
        """Load a profile for requests that name it by its id.

        Raises:
            SteeringError: as for `steer`; or too many are loaded, or the profile can steer the
                whole engine only: one in the score channel, or of the residual stream.
        """
        from .requests import KNOWN

        self.call("dsmoe_load", profile.to_json())
        KNOWN.add(profile.id)

    def drop(self, profile: str) -> None:
        """Remove a loaded profile by its id.

        Raises:
            SteeringError: it is not loaded.
        """
        from .requests import KNOWN

        self.call("dsmoe_drop", profile, True)
        KNOWN.discard(profile)

    def profiles(self) -> list[str]:
        """List the ids of the loaded profiles."""
        return list(self.call("dsmoe_profiles"))

    def log_probabilities(self, prompts: Prompts, profiles: Profiles = None) -> Tensor:
        """Compute log-probabilities of the next token of each prompt.

        Returns:
            [prompts, vocabulary], float32, natural logarithm.
        """
        outputs = self._generate(prompts, {"logprobs": -1, "flat_logprobs": True}, profiles)
        rows = torch.full(
            (len(outputs), self._llm.llm_engine.model_config.get_vocab_size()), -torch.inf
        )
        for row, output in zip(rows, outputs, strict=True):
            flat = output.outputs[0].logprobs
            row[torch.tensor(flat.token_ids)] = torch.tensor(flat.logprobs)
        return rows

    def score(
        self, requests: Sequence[ScoreRequest], profiles: Profiles = None
    ) -> list[list[LogLikelihood]]:
        """Compute (log-likelihood, is greedy) of each request's continuations."""
        prompts, settings = zip(*((one.prompt, one.settings) for one in requests), strict=True)
        outputs = self._generate(prompts, settings, profiles)
        return [one.read(output) for one, output in zip(requests, outputs, strict=True)]

    def computed(self) -> int:
        """Return the number of tokens that the model has computed since it was started."""
        return int(self.call("dsmoe_computed"))

    def generate(self, prompts: Prompts, limit: int, stop: Sequence[int] = ()) -> list[list[int]]:
        """Generate greedy completions: at most `limit` tokens each, up to one of `stop`."""
        requests = [Request(tuple(prompt), limit) for prompt in prompts]
        return [list(answer.tokens) for answer in self.answer(requests, stop)]

    def answer(
        self, requests: Sequence[Request], stop: Sequence[int] = (), profiles: Profiles = None
    ) -> list[Answer]:
        """Answer each request, up to one of the tokens `stop` or the request's limit.

        An answer includes the tokens of the stop string that ends it. Stop strings have no effect
        if the engine has no tokenizer (`skip_tokenizer_init=False` gives it one), or if they count
        only after a model's thinking: vLLM would also match them in the thinking.

        Answers do not depend on earlier calls: with a prefix in the cache, a prompt would be
        computed in other pieces, with other last bits.
        """
        self.forget()
        settings = [answering(request, stop, self._decodes) for request in requests]
        outputs = self._generate([request.prompt for request in requests], settings, profiles)
        answers = [output.outputs[0] for output in outputs]
        return [
            Answer(tuple(a.token_ids), "stop" if a.finish_reason == "stop" else "max_tokens")
            for a in answers
        ]

    def routing(
        self, prompts: Prompts, new_tokens: int = 0, stop: Sequence[int] = ()
    ) -> list[RoutedSequence]:
        """Record the routing of prompts and their greedy answers.

        Of a dense model the largest neurons are recorded, with their sizes as weights.
        All requests run at once, as vLLM batches them; every token is computed, also those in the
        prefix cache. The last token of an answer is never an input of the model and has no routing.
        vLLM's report, `enable_return_routed_experts`, needs its model runner V2, which does not run
        on CPUs, and has no weights; this method reads the same values from vLLM's routers.

        Args:
            prompts: token ids.
            new_tokens: limit of tokens per answer; with 0 there are no answers.
            stop: tokens after which an answer ends.

        Raises:
            SteeringError: vLLM compiles the model, selects experts in a kernel, or runs it in a
                way that hides routing; or the routing of some tokens is missing.
        """
        self.call("dsmoe_record", self.identity.sites.block)
        try:
            settings = {
                "max_tokens": max(1, new_tokens),
                "stop_token_ids": list(stop),
                "skip_reading_prefix_cache": True,
            }
            outputs = self._generate(prompts, settings)
        finally:
            recorded = self.call("dsmoe_recorded")
        answers = [list(o.outputs[0].token_ids) if new_tokens else [] for o in outputs]
        names = [str(output.request_id) for output in outputs]
        return assemble(recorded, list(zip(names, prompts, answers, strict=True)))

    def probe(self, profile: Profile, prompts: Prompts, must_act: bool = True) -> VllmProbeReport:
        """Run the null probe and the effect probe (see `steering.probes.ModelProber.probe`).

        Raises:
            ProbeError: strength zero changes an output bit; a profile that is not null changes
                nothing, or a null profile changes something; the number of active experts changed;
                in an eager model, the chosen neurons were not multiplied, or others were.
            SteeringError: as for `steer`.
        """
        return probe_engine(self, profile, prompts, must_act)

    def sum_streams(
        self, documents: Sequence[tuple[int, Sequence[int], Sequence[bool]]], domains: int
    ) -> Tensor:
        """Add up the residual stream of (domain, tokens, kept) over the tokens that are kept.

        Returns:
            [domains, decoder layers, hidden], float64.

        Raises:
            SteeringError: vLLM does not show the stream, or not of every token.
        """
        self.call("dsmoe_sum_streams", domains)
        try:
            for domain, tokens, kept in documents:
                self.call("dsmoe_document", domain, list(kept))
                self._generate([tokens], {"skip_reading_prefix_cache": True})
        finally:
            summed = self.call("dsmoe_summed")
        return read_sums(summed)

    def close(self) -> None:
        """Stop vLLM's processes and free its memory, so that another engine can be started."""
        from vllm.distributed import cleanup_dist_env_and_memory

        from .requests import KNOWN

        KNOWN.clear()
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def _generate(
        self,
        prompts: Prompts,
        settings: Settings | Sequence[Settings],
        profiles: Profiles = None,
    ) -> Sequence[RequestOutput]:
        """Run vLLM with the same settings for all prompts or with settings for each prompt."""
        from vllm import SamplingParams

        fixed = {"temperature": 0.0, "max_tokens": 1, "detokenize": False}
        each = [settings] * len(prompts) if isinstance(settings, dict) else settings
        named = profiles or [None] * len(prompts)
        parameters = [
            SamplingParams(**fixed | naming(one, profile))
            for one, profile in zip(each, named, strict=True)
        ]
        requests = list(map(token_prompt, prompts, named))
        outputs: Sequence[RequestOutput] = self._llm.generate(requests, parameters, use_tqdm=False)
        return outputs

    def forget(self) -> None:
        """Remove all from the prefix cache: behind a prefix in it, a text has other last bits."""
        if not self._llm.reset_prefix_cache():
            raise SteeringError("vLLM's prefix cache is in use and cannot be emptied")

    def call(self, method: str, *args: object) -> Any:
        """Call a method of all workers; their results must agree, since their models are equal."""
        with worker_refusals():
            answers = self._llm.collective_rpc(method, args=args)
        return agreed(method, answers)
