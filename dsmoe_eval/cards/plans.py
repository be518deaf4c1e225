"""Plans: the variants that are compared, their tuning, and the decision rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Card, Count, Fraction, Name
from .outcomes import OUTCOMES, Continuous, OutcomeName
from .variants import Kind

Unit = Literal["odds", "sigma"]
Precision = Literal["float32", "bfloat16", "float16"]
EngineName = Literal["transformers", "vllm"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
"""Those of transformers that are on the machine; it could also fetch code from the hub."""


Depth = Annotated[float, Field(ge=0, le=1)]
Strengths = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class ResidualTuning(Card):
    """The settings to try for `residual`: every depth with every strength.

    Attributes:
        depths: depth in the model, from 0, the first decoder layer, to 1, the last; a list of
            depths is one setting that steers several layers.
        strengths: factors of the vector; 1 is the difference of means.
    """

    depths: Annotated[
        tuple[Depth | Annotated[tuple[Depth, ...], Field(min_length=1)], ...], Field(min_length=1)
    ]
    strengths: Strengths


class Tuning(Card):
    """The rule that chooses settings, on the tuning split only.

    Every pair of a number of experts and a strength is tried, for `residual` of a depth and a
    strength. The setting with the largest target gain is chosen among those whose non-target change
    on the tuning split is non-inferior at the plan's margin. Ties go to fewer experts, to fewer
    layers, then to the lower strength. If no setting qualifies, the weakest one is used and the
    report says so.

    Attributes:
        expert_counts: the numbers of experts.
        strengths: kind of intervention -> strengths. `bias_sigma` has those of bias in units of the
            spread of each layer's logits, instead of `bias`, whose unit is the odds.
        residual: the settings of `residual`.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"experts": "`expert_counts`"}

    expert_counts: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = ()
    strengths: dict[Kind | Literal["bias_sigma"], Strengths] = Field(default_factory=dict)
    residual: ResidualTuning | None = None

    @model_validator(mode="after")
    def _check(self) -> Tuning:
        if {"bias", "bias_sigma"} <= set(self.strengths):
            raise ValueError("give strengths of `bias` or of `bias_sigma`, not of both")
        return self

    def of(self, kind: Kind) -> tuple[Unit, tuple[float, ...]] | None:
        """Return the unit and the strengths for a kind of intervention; None if there are none."""
        if kind == "bias" and "bias_sigma" in self.strengths:
            return "sigma", self.strengths["bias_sigma"]
        return ("odds", self.strengths[kind]) if kind in self.strengths else None


class Identification(Card):
    """The presentation of the identification text, and the tokens whose routing is counted.

    Attributes:
        phase: `prompt`: the questions. `generated`: the model's greedily decoded answers to them.
        answer_tokens: the most tokens of such an answer.
        chat_template: whether a question is wrapped in the tokenizer's chat template, whose
            tokens are not counted.
        saliency_model: another model with the same tokenizer that gives the token saliency, so
            that the evaluated model needs forward passes only.
    """

    phase: Literal["prompt", "generated"] = "prompt"
    answer_tokens: Annotated[int, Field(ge=2)] = 64
    chat_template: bool = False
    saliency_model: str | None = None


class Neurons(Card):
    """The neurons of a dense model's FFNs, where `sites` of a plan names them.

    Attributes:
        block: the number of neighbouring neurons that are one unit.
    """

    block: Annotated[int, Field(ge=1)] = 1


class Sft(Card):
    """Supervised fine-tuning of LoRA adapters on the target's tuning items, answers only."""

    RENAMED: ClassVar[Mapping[str, str]] = {"alpha": "`lora_alpha`"}

    rank: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[float, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]


class Learned(Card):
    """Learning of the shifts of all experts' logits, with the model's weights frozen.

    The objective is the mean outcome of the target's tuning items less `weight` times the mean
    divergence (KL, nats per token) from base on the identification text of all other domains. The
    state that is kept is the best one on the identification split, or no shift at all.

    Attributes:
        steps: the number of steps of Adam.
        learning_rate: of Adam, in units of the spread of a layer's logits over experts.
        batch_size: the number of items, and of texts, of a step.
        weight: the weight of the divergence.
        most_experts: the most experts that have a shift; None: all may.
        check_every: the number of steps between looks at the identification split.
    """

    steps: Annotated[int, Field(ge=1)] = 60
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    batch_size: Annotated[int, Field(ge=1)] = 40
    weight: Annotated[float, Field(ge=0)] = 20.0
    most_experts: Annotated[int, Field(ge=2)] | None = None
    check_every: Annotated[int, Field(ge=1)] = 10


class Stability(Card):
    """How far the results depend on the sample of identification text and on the prompt's wording.

    In YAML `stability: 5` is short for five resamples and the defaults.

    Attributes:
        resamples: the number of resamples of the identification documents.
        arm: the steered variant whose gain is measured again with the experts of each resample,
            and under the suite's `wordings`; None: the first tuned one of the plan.
    """

    resamples: Annotated[int, Field(ge=2)] = 5
    arm: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, content: object) -> object:
        is_number = isinstance(content, int) and not isinstance(content, bool)
        return {"resamples": content} if is_number else content


class Resources(Card):
    """What one worker of a model gets on a cluster; results do not depend on it.

    Attributes:
        gpus: the number of GPUs; by default those that the engine needs.
        cpus: the number of CPUs; by default 1.
    """

    gpus: Count | None = None
    cpus: Count | None = None


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
        if self.sites == "neurons" and "vllm" in (self.engine, self.learner):
            raise ValueError(
                "sites: neurons needs `engine: transformers`: vLLM neither shows nor steers them "
                "(it serves a checkpoint into which their profile is baked)"
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
