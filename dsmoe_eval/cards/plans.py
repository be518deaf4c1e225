"""Plans: the variants that are compared, and the decision rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Card, Fraction, Name
from .outcomes import OUTCOMES, Continuous, OutcomeName
from .sections import Identification, Learned, Neurons, Resources, Sft, Stability, Tuning

Precision = Literal["float32", "bfloat16", "float16"]
EngineName = Literal["transformers", "vllm"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
"""Those of transformers that are on the machine; it could also fetch code from the hub."""


class Plan(Card):
    """The complete definition of a run; everything is fixed before a test item is read.

    Attributes:
        model: the model to be steered; `models` are several, and each of them is a separate run.
        revision: the commit, branch or tag of a model of the hub; in `models` write
            `organisation/model@revision`.
        dtype: the dtype of the weights in memory; by default the checkpoint's.
        sites: what is counted, chosen and steered: routed experts, or the neurons of a dense
            model's FFNs, which the keys of experts then speak of.
        neurons: with `sites: neurons`, how they are parted into units.
        prompt: whether questions are wrapped in the tokenizer's chat template. `auto`: if there
            is a template and the model's card does not say that it is a base model.
        think_end_token: text that ends the model's thinking; by default as the model's card or its
            tokenizer says.
        decoding: `task`: answers are decoded as the tasks say, and generation_config.json of the
            model has no effect. `model`: its settings act where a task sets nothing.
        engine: the engine that answers: in tuning, probes and cells.
        learner: the engine that identifies experts, computes saliency, averages the residual stream
            and trains, before the other is started; vLLM gives routing and streams only.
        routing_from: whose routing is counted on the identification text: the learner's, or that of
            the engine that answers, which vLLM shows in a pass before it answers.
        tensor_parallel: number of devices over which vLLM shards the model.
        expert_parallel: whether vLLM puts whole experts on each device, instead of a shard of
            every expert.
        resources: the GPUs and CPUs of a worker on a cluster. They are no part of what a run is: it
            may go on with others.
        experts_implementation: the method by which transformers computes the experts; by default as
            transformers chooses. None is the fastest for every model.
        attn_implementation: the method by which transformers computes attention; by default as
            transformers chooses.
        controls: the controls that are added for each tuned arm that has none in the plan:
            `placebo`: matched random experts; `full`: sham and wrong-domain too. An arm `prompt`
            gets another domain's name.
        placebo_draws: the number of random draws of each placebo.
        domain_lines: domain -> the line with which the arm `prompt` names it; by default as the
            suite says.
        margin: non-inferiority margin on pooled non-targets, a fraction of items.
        outcome: the primary outcome, by which settings are chosen and which headlines are about;
            the others are secondary.
        margins: non-inferiority margins of the outcomes other than `score`, each in its unit.
        significance_level: of two-sided tests of target claims; the one-sided non-inferiority test
            uses half of it.
        foretell: whether the effect of each arm on the test split is foretold from answers on the
            identification split, before it answers the test split.
        super_experts: `spare`: experts whose removal would break the model as such (see
            `experts.super_experts`) are not masked, forced out, pruned or drawn as placebo.
            `allow`: they are experts like others.
        allow_leakage: whether the splits may overlap, as in the set-up of the DSMoE paper, which
            identifies experts on 10 % of the benchmark that it tests on and reuses its settings.
            The report then marks the overlap in red. Otherwise an overlap is an error.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "alpha": "`significance_level`",
        "overlap": "`allow_leakage: true`",
    }

    name: Name
    description: str
    model: str = ""
    models: tuple[str, ...] = ()
    revision: Annotated[str, Field(pattern=r"^[\w./-]+$")] | None = None
    dtype: Precision | None = None
    sites: Literal["experts", "neurons"] = "experts"
    neurons: Neurons = Neurons()
    suite: Name
    variants: Annotated[tuple[Name, ...], Field(min_length=1)]
    controls: Literal["full", "placebo", "none"] = "placebo"
    placebo_draws: Annotated[int, Field(ge=1)] = 3
    domain_lines: dict[Name, str] = Field(default_factory=dict)
    targets: tuple[Name, ...] | None = None
    prompt: Literal["auto", "plain", "chat"] = "auto"
    think_end_token: str | None = None
    decoding: Literal["task", "model"] = "task"
    seed: Annotated[int, Field(ge=0)] = 0
    engine: EngineName = "transformers"
    learner: EngineName = "transformers"
    routing_from: Literal["learner", "engine"] = "learner"
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    expert_parallel: bool = False
    resources: Annotated[Resources, Field(exclude=True)] = Resources()
    batch_tokens: Annotated[int, Field(ge=1)] = 8192
    experts_implementation: Literal["eager", "grouped_mm", "batched_mm"] | None = None
    attn_implementation: Attention | None = None
    margin: Fraction
    outcome: Literal["score", "gold_logprob"] = "score"
    margins: dict[Continuous, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    significance_level: Fraction = 0.05
    identification: Identification = Identification()
    tuning: Tuning | None = None
    sft: Sft | None = None
    learned: Learned | None = None
    stability: Stability | None = None
    foretell: bool = False
    super_experts: Literal["spare", "allow"] = "spare"
    allow_leakage: bool = False

    @model_validator(mode="after")
    def _check(self) -> Plan:
        for names in (self.variants, self.targets or (), self.models):
            if len(set(names)) < len(names):
                raise ValueError(f"a name is listed twice: {', '.join(names)}")
        if bool(self.model) == bool(self.models):
            raise ValueError("give either `model` or `models`, exactly one of the two")
        if self.revision and (self.models or "@" in self.model):
            raise ValueError("revision is for one `model`; else write organisation/model@revision")
        return self

    @model_validator(mode="after")
    def _check_engines(self) -> Plan:
        if self.tensor_parallel > 1 and self.engine != "vllm":
            raise ValueError("tensor_parallel needs `engine: vllm`")
        if self.sites == "neurons" and "vllm" in (self.learner, self.routing_engine):
            raise ValueError(
                "sites: neurons are identified in transformers: leave `learner` and "
                "`routing_from` out (`engine: vllm` may answer)"
            )
        if self.sites == "experts" and self.neurons.block > 1:
            raise ValueError("neurons.block needs `sites: neurons`")
        if self.learner == "vllm" and self.engine != "vllm":
            raise ValueError("learner: vllm needs `engine: vllm`")
        if self.routing_from == "engine" and self.engine == self.learner:
            raise ValueError("routing_from: engine needs another engine than the learner")
        for name in ("experts_implementation", "attn_implementation"):
            if getattr(self, name) and self.engine == "vllm":
                raise ValueError(f"{name} is for `engine: transformers`")
        if self.expert_parallel and self.tensor_parallel < 2:
            raise ValueError("expert_parallel needs `engine: vllm` and `tensor_parallel` above 1")
        if self.resources.gpus is not None and self.resources.gpus < self.tensor_parallel:
            raise ValueError("resources.gpus must be at least tensor_parallel")
        return self

    @property
    def routing_engine(self) -> EngineName:
        """The engine whose routing of the identification text is counted."""
        return self.engine if self.routing_from == "engine" else self.learner

    @property
    def named_model(self) -> str:
        """The name of the model, with the revision behind it if there is one."""
        return f"{self.model}@{self.revision}" if self.model and self.revision else self.model

    def margin_of(self, outcome: OutcomeName) -> float:
        """Return the margin of non-inferiority in the unit of an outcome."""
        default = OUTCOMES[outcome].margin
        if outcome == "score" or default is None:
            return self.margin
        return self.margins.get(outcome, default)

    def of(self, model: str, seed: int | None = None) -> Plan:
        """Return the plan of one model, with another seed if one is given."""
        own = {"model": model, "models": (), "revision": None}
        return self.model_copy(update=own | ({} if seed is None else {"seed": seed}))
