"""Variants: what is compared with the base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .base import Card, Count, Name

Kind = Literal["reweight", "bias", "amplify", "force", "mask"]
Recipe = Literal["lora", "lora-cka", "simsmoe", "esft", "router"]
Rated = Literal["lora", "esft", "router"]
"""The recipes with a learning rate; those of adapters have that of `lora`."""
Rounding = Literal["int8", "int4", "fp8"]
"""The form to which the weights of a quantized model's experts are rounded."""
Change = Literal["reweight", "bias", "amplify", "force", "mask", "prune"]
"""What is done with a steered variant's experts: a kind of intervention, or all others masked."""
ExpertSource = Literal[
    "method",
    "random_matched",
    "other_domain",
    "shuffled_answers",
    "all_domains",
    "shuffled_rows",
    "zero_weight",
]

LOSS_CONTROLS: tuple[ExpertSource, ...] = ("shuffled_rows", "zero_weight")
"""The sources of the controls of `lora-cka`."""


class Variant(Card):
    """A variant of the model, which is compared with the base model.

    Attributes:
        kind: `base`; `steered`: experts; `residual`: a vector in the residual stream; `prompt`: a
            line that names the domain; `sft`: fine-tuned; `learned`: a profile of learned shifts.
        method: the method that scores a steered variant's experts (see `experts.all_methods`), or
            those that the recipe `esft` trains.
        intervention: the kind of intervention on these experts; `prune` keeps the best and masks
            all others, which is a pruned model.
        keep: for `prune`: the number of experts that each layer keeps.
        recipe: the part of the model that `sft` trains: `lora`, the default: adapters of attention
            and experts; `lora-cka` and `simsmoe`: the same with a loss on the similarity of
            experts; `esft`: the weights of the chosen experts; `router`: those of the routers.
        epochs: the budget of `sft`, instead of the plan's.
        quantized: the form to which the experts of the answering model are rounded; what is steered
            and how strongly is chosen on the unrounded model, adapters are trained on the rounded
            one. `base` with it is the rounded model.
        expert_source: `method`: the method's best experts for the target; `random_matched`: random
            experts of like exposure; `other_domain`: the method's best for another domain. For
            `residual` likewise: the target's vector, a random one of the same norm, another
            domain's; for `prompt`: the target's name or another domain's. For `learned`: from the
            target's answers, another domain's, `shuffled_answers` or those of `all_domains`. For
            `lora-cka`: with the loss on outputs of the same tokens, on `shuffled_rows`, or with
            `zero_weight`.
        control_of: the arm that this control belongs to, and whose tuned settings it uses.
        zero_strength: whether the strength is set to zero.
        draw: the number of the draw of a random source; each draw has another seed.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "experts": "`expert_source`: method, random_matched or other_domain",
        "null": "`zero_strength`",
    }

    name: Name
    summary: str
    kind: Literal["base", "steered", "residual", "prompt", "sft", "learned"]
    method: str | None = None
    intervention: Change | None = None
    keep: Annotated[int, Field(ge=1)] | None = None
    recipe: Recipe | None = None
    epochs: Count | None = None
    quantized: Rounding | None = None
    expert_source: ExpertSource = "method"
    control_of: Name | None = None
    zero_strength: bool = False
    draw: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> Variant:
        steered = (self.method, self.intervention)
        if self.kind == "steered" and None in steered:
            raise ValueError("a steered variant needs `method` and `intervention`")
        if self.kind != "steered" and steered != (None, None) and not self.trains_experts:
            raise ValueError(f"{self.kind} takes no method or intervention")
        if (self.intervention == "prune") != (self.keep is not None):
            raise ValueError("`keep` is for the intervention prune, which needs it")
        has_control = self.trains_experts or self.recipe == "lora-cka"
        if self.control_of and self.kind in ("base", "sft") and not has_control:
            raise ValueError(f"{self.kind} takes no control_of")
        self._check_sft()
        if self.kind == "prompt" and (self.zero_strength or self.expert_source == "random_matched"):
            raise ValueError("prompt has no strength and no random control; take other_domain")
        of_learned = self.expert_source in ("shuffled_answers", "all_domains")
        if of_learned and self.kind != "learned":
            raise ValueError(f"expert_source {self.expert_source} is for kind learned")
        if self.kind == "learned" and self.expert_source == "random_matched":
            raise ValueError("learned takes shuffled_answers in place of random_matched")
        return self

    def _check_sft(self) -> None:
        if self.kind == "sft" and self.quantized is not None and self.trained_by != "lora":
            raise ValueError("of sft only recipe lora takes `quantized`")
        if self.kind != "sft" and (self.recipe, self.epochs) != (None, None):
            raise ValueError(f"{self.kind} takes no recipe or epochs; they are for kind sft")
        if self.trains_experts and (self.method is None or self.intervention is not None):
            raise ValueError("recipe esft needs `method`, and takes no intervention")
        if self.trains_experts and self.zero_strength:
            raise ValueError("sft has no strength; leave zero_strength out")
        if self.expert_source in LOSS_CONTROLS:
            if self.recipe != "lora-cka":
                raise ValueError(f"expert_source {self.expert_source} is for recipe lora-cka")
        elif self.kind == "sft" and not self.trains_experts and self.expert_source != "method":
            raise ValueError("expert_source is for sft with recipe esft, which alone has experts")

    @property
    def is_base(self) -> bool:
        """Whether it is the unrounded model, without steering."""
        return self.kind == "base" and self.quantized is None

    @property
    def other_weights(self) -> bool:
        """Whether other weights than the model's answer: fine-tuned or quantized ones."""
        return self.kind == "sft" or self.quantized is not None

    @property
    def trained_by(self) -> Recipe:
        """The recipe of a fine-tuned variant."""
        return self.recipe or "lora"

    @property
    def rated_by(self) -> Rated:
        """The recipe whose learning rate a fine-tuned variant has."""
        return self.recipe if self.recipe in ("esft", "router") else "lora"

    @property
    def adds_loss(self) -> bool:
        """Whether training adds a loss on the similarity of experts to that of the answers."""
        return self.recipe in ("lora-cka", "simsmoe")

    @property
    def trains_experts(self) -> bool:
        """Whether it trains the weights of experts that a method chooses."""
        return self.kind == "sft" and self.recipe == "esft"

    @property
    def is_tuned(self) -> bool:
        """Whether settings, such as the strength, are chosen on the tuning split."""
        return self.takes_controls and self.intervention != "prune" and not self.trains_experts

    @property
    def takes_controls(self) -> bool:
        """Whether it is an arm with a placebo and a wrong-domain control."""
        chosen = self.kind in ("steered", "residual") or self.trains_experts
        return chosen and self.control_of is None

    @property
    def has_profile(self) -> bool:
        """Whether the model is steered by a profile: of experts, or of vectors."""
        return self.kind in ("steered", "residual", "learned")

    @property
    def must_act(self) -> bool:
        """Whether its profile must change something.

        Learning may end where it began, and pruning may remove experts that are never used.
        """
        drawn = self.expert_source == "random_matched" or self.kind == "learned"
        return not (self.zero_strength or drawn or self.intervention == "prune")

    @property
    def family(self) -> Literal["arms", "controls"] | None:
        """The family of its claims; None at strength zero, where nothing is claimed."""
        if self.zero_strength:
            return None
        return "arms" if self.control_of is None else "controls"
