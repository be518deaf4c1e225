"""Plans: which variants are compared, how they are tuned, and what decides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Card, Fraction, Name

Kind = Literal["reweight", "bias", "amplify", "force", "mask"]


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

    @model_validator(mode="after")
    def _check(self) -> Variant:
        steered = (self.method, self.intervention)
        if self.kind == "steered" and None in steered:
            raise ValueError("a steered variant needs `method` and `intervention`")
        if self.kind != "steered" and (steered != (None, None) or self.control_of):
            raise ValueError(f"{self.kind} takes no method, intervention or control_of")
        return self

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
        model: what is steered; `models` are several, each of which is a run of its own.
        prompt: whether questions stand in the tokenizer's chat template. `auto`: where there is one
            and the model's card does not say that it is a base model.
        engine: who answers; vLLM serves no variant that needs training, gradients or experts'
            outputs.
        tensor_parallel: over how many devices vLLM spreads the model.
        expert_parallel: whether it gives each of them whole experts, instead of a part of each.
        margin: non-inferiority margin on pooled non-targets, a fraction of items.
        alpha: two-sided level of target claims; non-inferiority uses alpha / 2, one-sided.
        overlap: `paper` lets the splits overlap, as in the paper's own set-up, which identifies
            experts on 10 % of the very benchmark that it tests on and uses its settings again. The
            report then says in red what overlaps. Without this key an overlap is refused.
    """

    name: Name
    description: str
    model: str = ""
    models: tuple[str, ...] = ()
    suite: Name
    variants: Annotated[tuple[Name, ...], Field(min_length=1)]
    targets: tuple[Name, ...] | None = None
    prompt: Literal["auto", "plain", "chat"] = "auto"
    seed: Annotated[int, Field(ge=0)] = 0
    engine: Literal["transformers", "vllm"] = "transformers"
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    expert_parallel: bool = False
    batch_tokens: Annotated[int, Field(ge=1)] = 8192
    margin: Fraction
    alpha: Fraction = 0.05
    identification: Identification = Identification()
    tuning: Tuning | None = None
    sft: Sft | None = None
    overlap: Literal["paper"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Plan:
        for names in (self.variants, self.targets or (), self.models):
            if len(set(names)) < len(names):
                raise ValueError(f"a name is listed twice: {', '.join(names)}")
        if bool(self.model) == bool(self.models):
            raise ValueError("give `model`, or `models`, one of the two")
        if self.tensor_parallel > 1 and self.engine != "vllm":
            raise ValueError("tensor_parallel needs `engine: vllm`")
        if self.expert_parallel and self.tensor_parallel < 2:
            raise ValueError("expert_parallel needs `engine: vllm` and `tensor_parallel` above 1")
        return self

    def of(self, model: str, seed: int | None = None) -> Plan:
        """The plan of one model, perhaps with another seed."""
        return self.model_copy(
            update={"model": model, "models": (), "seed": self.seed if seed is None else seed}
        )
