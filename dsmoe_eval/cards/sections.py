"""The sections of a plan: tuning, identification, training, and how workers are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Card, Count, Name
from .variants import Kind, Rated, Variant

Unit = Literal["odds", "sigma"]
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


Rate = Annotated[float, Field(gt=0)]


class Sft(Card):
    """Supervised fine-tuning on the target's tuning items, answers only.

    Attributes:
        rank: the rank of the adapters, which `esft` and `router` have not; `lora_alpha` likewise.
        learning_rate: of all recipes, or recipe -> rate; all recipes of adapters have `lora`'s.
        epochs: the budget; every recipe trains on the same tokens.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"alpha": "`lora_alpha`"}

    rank: Count | None = None
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    learning_rate: Rate | dict[Rated, Rate]
    epochs: Count
    batch_size: Count

    def missing(self, variant: Variant) -> str | None:
        """Return the key that a variant's recipe needs and that is not there; None: all are."""
        recipe = variant.rated_by
        if isinstance(self.learning_rate, dict) and recipe not in self.learning_rate:
            return f"learning_rate.{recipe}"
        lacking = [name for name in ("rank", "lora_alpha") if getattr(self, name) is None]
        return lacking[0] if recipe == "lora" and lacking else None

    def of(self, variant: Variant) -> Sft:
        """Return the settings of a variant: one learning rate, and its number of epochs."""
        rate = self.learning_rate
        changes: dict[str, object] = {"epochs": variant.epochs or self.epochs}
        changes["learning_rate"] = rate[variant.rated_by] if isinstance(rate, dict) else rate
        if variant.rated_by != "lora":
            changes |= {"rank": None, "lora_alpha": None}
        return self.model_copy(update=changes)

    @property
    def rate(self) -> float:
        """The learning rate, of the settings of one variant."""
        if isinstance(self.learning_rate, dict):
            raise ValueError("several recipes have several learning rates; see `of`")
        return self.learning_rate


class Learned(Card):
    """Learning of the shifts of all experts' logits, with the model's weights frozen.

    The objective is the mean outcome of the target's tuning items less a weight times the mean
    divergence (KL, nats per token) from base on the identification text of all other domains. The
    state that is kept is the best one on the identification split, or no shift at all. Of several
    weights that one is taken whose kept state has the largest gain there, among those with at most
    `most_divergence`; if none has, the one with the least divergence. Ties go to larger weights.

    Attributes:
        steps: the number of steps of Adam.
        learning_rate: of Adam, in units of the spread of a layer's logits over experts.
        batch_size: the number of items, and of texts, of a step.
        weights: the weights of the divergence to try; in YAML `weight: 20` is short for one.
        most_divergence: the most divergence, on the identification split, of a state that several
            weights are to choose from.
        most_experts: the most experts that have a shift; None: all may.
        check_every: the number of steps between looks at the identification split.
    """

    steps: Annotated[int, Field(ge=1)] = 60
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    batch_size: Annotated[int, Field(ge=1)] = 40
    weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (20.0,)
    most_divergence: Annotated[float, Field(gt=0)] = 0.005
    most_experts: Annotated[int, Field(ge=2)] | None = None
    check_every: Annotated[int, Field(ge=1)] = 10

    @model_validator(mode="before")
    @classmethod
    def _from_one(cls, content: object) -> object:
        if not isinstance(content, Mapping) or "weight" not in content:
            return content
        if "weights" in content:
            raise ValueError("give either `weight` or `weights`, not both")
        rest = {name: value for name, value in content.items() if name != "weight"}
        return rest | {"weights": [content["weight"]]}

    @model_validator(mode="after")
    def _check(self) -> Learned:
        if len(set(self.weights)) < len(self.weights):
            raise ValueError("a weight is listed twice")
        return self

    @property
    def weight(self) -> float:
        """The weight of settings that have one."""
        (weight,) = self.weights
        return weight

    def each(self) -> tuple[Learned, ...]:
        """Return the settings of each weight."""
        return tuple(self.model_copy(update={"weights": (one,)}) for one in self.weights)


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
