"""The declarations that everyone reads: models, suites, plans, variants.

Frozen, and strict about keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["target", "non-target", "identification"]
Kind = Literal["reweight", "bias", "amplify", "force", "mask"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Count = Annotated[int, Field(ge=1)]
Billions = Annotated[str, Field(pattern=r"^\d+(\.\d+)?B$")]
BITS = {"float32": 32.0, "bfloat16": 16.0, "mxfp4": 4.25}
"""Bits of one weight; MXFP4 shares a scale of 8 bits among 32 weights of 4."""
Precision = Literal["float32", "bfloat16", "mxfp4"]


class Card(BaseModel):
    """Base of all declarations: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Card):
    """One lm-eval task in a suite.

    Attributes:
        name: lm-eval's own name of the task.
        domain: the subject that its items belong to.
        roles: `target`: steering for its domain should help here. `non-target`: steering for
            another domain must not hurt here. `identification`: its identification split is the
            text from which the domain's experts are found.
        metric: lm-eval's metric that is the item's score, 0 or 1.
    """

    name: Name
    domain: Name
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    metric: Literal["acc", "exact_match"]


class Splits(Card):
    """Names of the data set's splits; an item in two of them is refused (see `Plan.overlap`)."""

    identification: str
    tuning: str
    test: str


class Suite(Card):
    """Target and non-target tasks that belong together.

    Attributes:
        markers: tokens whose routing the method `npmi` looks at, with their coefficients; RICE has
            `<think>` 1, `</think>` -1 and `Alternatively` -1 on a model's own reasoning.
    """

    name: Name
    description: str
    tasks_dir: Path | None = None
    markers: dict[str, float] = {}
    splits: Splits
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Suite:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("a task is listed twice")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("a domain has two target tasks")
        for domain in self.targets:
            if domain not in self.identification_domains:
                raise ValueError(f"target domain {domain!r} has no identification task")
            if not self.non_target_tasks(domain):
                raise ValueError(f"target domain {domain!r} has no non-target task")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Domains that can be steered for, in the order of the card."""
        return tuple(task.domain for task in self.tasks if "target" in task.roles)

    @property
    def identification_tasks(self) -> tuple[Task, ...]:
        """Tasks whose identification split is read."""
        return tuple(task for task in self.tasks if "identification" in task.roles)

    @property
    def identification_domains(self) -> tuple[str, ...]:
        """Domains whose text is compared when experts are identified."""
        return tuple(task.domain for task in self.identification_tasks)

    def target_task(self, domain: str) -> Task:
        """The task on which steering for `domain` should help."""
        return next(t for t in self.tasks if t.domain == domain and "target" in t.roles)

    def non_target_tasks(self, domain: str) -> tuple[Task, ...]:
        """The tasks on which steering for `domain` must not hurt: those of every other domain."""
        return tuple(t for t in self.tasks if "non-target" in t.roles and t.domain != domain)

    def tasks_for(self, domain: str) -> tuple[Task, ...]:
        """All tasks that an arm steered for `domain` answers."""
        return (self.target_task(domain), *self.non_target_tasks(domain))


class Variant(Card):
    """What is compared with the base model.

    Attributes:
        kind: `base`, `steered` or `sft`.
        method: how a steered variant's experts are scored (see `experts.all_methods`).
        intervention: what is done with them.
        experts: whose experts: the method's `own` best for the target; `matched` random ones;
            those of the `wrong` domain.
        control_of: a control takes the tuned settings of the arm it controls.
        null: strength is forced to zero.
    """

    name: Name
    summary: str
    kind: Literal["base", "steered", "sft"]
    method: str | None = None
    intervention: Kind | None = None
    experts: Literal["own", "matched", "wrong"] = "own"
    control_of: Name | None = None
    null: bool = False

    @property
    def is_tuned(self) -> bool:
        """True for arms whose number of experts and strength are chosen on the tuning split."""
        return self.kind == "steered" and self.control_of is None


class Tuning(Card):
    """The rule by which settings are chosen, on the tuning split only.

    Every pair of `experts` and a strength is tried; the best target gain wins among those whose
    non-target change on the tuning split is non-inferior at the plan's margin. Ties go to fewer
    experts, then to the lower strength. Where no setting qualifies, the weakest one is used and the
    report says so.
    """

    experts: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    strengths: dict[Kind, Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]]


class Identification(Card):
    """How identification text is presented, and what its routing is read from.

    Attributes:
        phase: `prompt`: the questions. `generated`: the model's own greedy answers to them.
        answer_tokens: how long such an answer may be.
        chat_template: whether a question stands in the tokenizer's chat template, whose tokens do
            not count.
        saliency_model: another model of the same tokenizer that gives the token saliency, so that
            the model itself needs forward passes only.
    """

    phase: Literal["prompt", "generated"] = "prompt"
    answer_tokens: Annotated[int, Field(ge=2)] = 64
    chat_template: bool = False
    saliency_model: str | None = None


class Sft(Card):
    """Supervised fine-tuning of LoRA adapters on the target's tuning items, answers only."""

    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]


class Plan(Card):
    """What is run: everything is fixed here before a test item is read.

    Attributes:
        margin: non-inferiority margin on pooled non-targets, a fraction of items.
        alpha: two-sided level of target claims; non-inferiority uses alpha / 2, one-sided.
        overlap: `paper` lets the splits overlap, as in the paper's own set-up, which identifies
            experts on 10 % of the very benchmark that it tests on and uses its settings again. The
            report then says in red what overlaps. Without this key an overlap is refused.
    """

    name: Name
    description: str
    model: str
    suite: Name
    variants: Annotated[tuple[Name, ...], Field(min_length=1)]
    targets: tuple[Name, ...] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_tokens: Annotated[int, Field(ge=1)] = 8192
    margin: Fraction
    alpha: Fraction = 0.05
    identification: Identification = Identification()
    tuning: Tuning | None = None
    sft: Sft | None = None
    overlap: Literal["paper"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Plan:
        for names in (self.variants, self.targets or ()):
            if len(set(names)) < len(names):
                raise ValueError(f"a name is listed twice: {', '.join(names)}")
        return self


class Published(Card):
    """The parameter counts that the vendor prints, to hold against those of the built model.

    Attributes:
        total: as printed, such as `30.5B`.
        active: as printed.
        active_without: the embeddings that the printed active count seems to leave out.
        source: where the figures stand.
        discrepancy: in words, where our counts are not those printed.
    """

    total: Billions
    active: Billions
    active_without: Literal["nothing", "input embedding", "both embeddings"] = "nothing"
    source: str
    discrepancy: str | None = None


class Parameters(Card):
    """Counts of the model that `config` builds, without layers that are only for training.

    Attributes:
        active: the total without the parameters of the experts that a token does not select.
    """

    total: Count
    active: Count
    published: Published


class Routing(Card):
    """How a router chooses its experts and weighs them, as its code says it.

    Attributes:
        function: from logits to scores.
        renormalised: whether the weights of the chosen are divided by their sum.
        correction_bias: whether the choice, not the weight, is by score + a bias.
        native_bias: whether the linear that gives the logits has a bias.
        groups: experts are chosen in so many groups; 1 is no groups.
    """

    function: Literal["softmax", "softmax-topk", "sigmoid", "sparsemixer"]
    renormalised: bool
    correction_bias: bool = False
    native_bias: bool = False
    groups: Count = 1


class ModelCard(Card):
    """What is known of a model before it is loaded; a model needs no card to be evaluated.

    Attributes:
        revision: commit of the hub repository that the card speaks of, where it was read.
        architecture: `model_type`; `transformers` tells whether that library has code for it.
        class_name: `architectures` of the hub's config, by which vLLM finds its code.
        config: the keys of the hub's config that define the architecture.
        experts: routed experts of a layer, of which each token selects `top_k`.
        shared_experts: that every token passes, counted in widths of a routed expert.
        dense_layers: layers without experts.
        format: `base` continues text; `chat` wants its template; `reasoning` thinks before it
            answers, and the answer is what follows the last `think_end_token`.
        weights: precision of the published weights, and `expert_weights` of the routed experts.
        steered_in_paper: whether the DSMoE paper reports it steered.
        notes: what a user must know.
        sources: where config and facts were read, and what was not seen.
    """

    name: Name
    hub_id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: str | None = None
    architecture: Name
    class_name: str
    transformers: bool = True
    config: dict[str, Any]
    parameters: Parameters
    experts: Count
    top_k: Count
    shared_experts: Annotated[int, Field(ge=0)] = 0
    dense_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    routing: Routing
    format: Literal["base", "chat", "reasoning"]
    think_start_token: str | None = None
    think_end_token: str | None = None
    licence: str
    weights: Precision
    expert_weights: Precision | None = None
    steered_in_paper: bool
    notes: str | None = None
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> ModelCard:
        layers = self.config.get("num_hidden_layers")
        if not isinstance(layers, int):
            raise ValueError("config has no num_hidden_layers")
        if not set(self.dense_layers) < set(range(layers)):
            raise ValueError(f"dense_layers must leave some of the {layers} layers, and be of them")
        if self.top_k >= self.experts:
            raise ValueError(f"top_k {self.top_k} is not below {self.experts} experts")
        idle = self.parameters.total - self.parameters.active
        if idle <= 0 or idle * self.experts % (self.experts - self.top_k):
            raise ValueError("total - active is no whole number of unselected experts")
        if (self.format == "reasoning") != (self.think_end_token is not None):
            raise ValueError("think_end_token belongs to format reasoning, and to no other")
        return self

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Layers with experts."""
        return tuple(layer for layer in range(self.layers) if layer not in self.dense_layers)

    @property
    def routed_parameters(self) -> int:
        """Parameters of all routed experts of all layers."""
        idle = self.parameters.total - self.parameters.active
        return idle * self.experts // (self.experts - self.top_k)

    @property
    def weights_gib(self) -> float:
        """GiB of the weights as published; less than 0.1 % low where experts are quantised.

        Quantised experts keep their biases in full, and those are counted as quantised too.
        """
        rest = self.parameters.total - self.routed_parameters
        expert_bits = BITS[self.expert_weights or self.weights]
        return (self.routed_parameters * expert_bits + rest * BITS[self.weights]) / 8 / 2**30

    @property
    def summary(self) -> str:
        """One line."""
        total, active = (n / 1e9 for n in (self.parameters.total, self.parameters.active))
        shared = f" + {self.shared_experts} shared" if self.shared_experts else ""
        return (
            f"{self.hub_id}: {total:.2f}B parameters, {active:.2f}B active; top-{self.top_k} of "
            f"{self.experts} experts{shared} in {len(self.moe_layers)} of {self.layers} layers; "
            f"{self.weights_gib:.1f} GiB"
        )
