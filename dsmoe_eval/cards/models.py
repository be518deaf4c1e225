"""Model cards: the facts about a model that are known before it is loaded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Card, Count, Name

Billions = Annotated[str, Field(pattern=r"^\d+(\.\d+)?B$")]
BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0, "float8": 8.0, "mxfp4": 4.25}
"""Bits per weight; MXFP4 has one scale of 8 bits per 32 weights of 4 bits."""
Precision = Literal["float32", "bfloat16", "float16", "float8", "mxfp4"]


class Published(Card):
    """The parameter counts that the vendor published, for comparison with the built model's.

    Attributes:
        total: the published total, such as `30.5B`.
        active: the published active count.
        active_without: the embeddings that the published active count seems to exclude.
        source: the publication with these figures.
        discrepancy: an explanation, if our counts differ from the published ones.
    """

    total: Billions
    active: Billions
    active_without: Literal["nothing", "input embedding", "both embeddings"] = "nothing"
    source: str
    discrepancy: str | None = None


class Parameters(Card):
    """The parameter counts of the model that `config` builds, without layers only for training.

    Attributes:
        active: the total without the parameters of the experts that a token does not select.
        published: the vendor's counts, if they are known.
    """

    total: Count
    active: Count
    published: Published | None = None


class RoutingRule(Card):
    """The rule by which a router chooses and weights its experts, read from its code.

    Attributes:
        function: the function from logits to scores; `other` is none of the known ones.
        renormalised: whether the weights of the chosen experts are divided by their sum.
        correction_bias: whether experts are chosen (not weighted) by score + a bias.
        native_bias: whether the linear layer that gives the logits has a bias.
        groups: number of groups in which experts are chosen; 1 means no groups.
    """

    function: Literal["softmax", "softmax-topk", "sigmoid", "sparsemixer", "other"]
    renormalised: bool
    correction_bias: bool = False
    native_bias: bool = False
    groups: Count = 1


class ModelCard(Card):
    """The facts about a model before it is loaded; a model needs no card to be evaluated.

    Attributes:
        hub_id: the repository of the hub; None for a folder that is not known to come from there.
        revision: the commit of the hub repository that the card describes, if it was read.
        architecture: `model_type`; `transformers` is whether that library has code for it.
        class_name: `architectures` of the hub's config, by which vLLM selects its code.
        converted_from: the published `model_type`, if only remote code knows it and `convert`
            writes the checkpoint anew; the other keys then describe the converted model.
        config: the keys of the hub's config that define the architecture.
        experts: number of routed experts per layer, of which each token selects `top_k`.
        shared_experts: experts that every token uses, counted in widths of a routed expert.
        dense_layers: indices of the layers without experts.
        format: `base` continues text; `chat` needs its chat template; `reasoning` writes its
            reasoning first, and the answer is the text after the last `think_end_token`.
        answer_tokens: the most tokens of a reasoning model's answer, reasoning included.
        weights: precision of the published weights; `expert_weights`: of the routed experts.
        licence: the licence of the weights, if it is known.
        steered_in_paper: whether the DSMoE paper reports it steered.
        notes: facts that a user must know.
        sources: where config and facts were read, and what could not be read.
    """

    name: Name
    hub_id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: str | None = None
    architecture: Name
    class_name: str
    transformers: bool = True
    converted_from: Name | None = None
    config: dict[str, Any]
    parameters: Parameters
    experts: Count
    top_k: Count
    shared_experts: Annotated[int | float, Field(ge=0)] = 0
    dense_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    routing: RoutingRule
    format: Literal["base", "chat", "reasoning"]
    think_start_token: str | None = None
    think_end_token: str | None = None
    answer_tokens: Count | None = None
    licence: str | None = None
    weights: Precision
    expert_weights: Precision | None = None
    steered_in_paper: bool = False
    notes: str | None = None
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> ModelCard:
        layers = self.config.get("num_hidden_layers")
        if not isinstance(layers, int):
            raise ValueError("config has no num_hidden_layers")
        if not set(self.dense_layers) < set(range(layers)):
            raise ValueError(f"dense_layers must be some, not all, of layers 0 to {layers - 1}")
        if self.top_k >= self.experts:
            raise ValueError(f"top_k {self.top_k} is not below {self.experts} experts")
        idle = self.parameters.total - self.parameters.active
        if idle <= 0 or idle * self.experts % (self.experts - self.top_k):
            raise ValueError("total - active is not divisible by the number of unselected experts")
        for name in ("think_end_token", "answer_tokens"):
            if (self.format == "reasoning") != (getattr(self, name) is not None):
                raise ValueError(
                    f"{name} is required for format reasoning and not allowed for others"
                )
        return self

    @property
    def layers(self) -> int:
        """The number of layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The indices of the layers with experts."""
        return tuple(layer for layer in range(self.layers) if layer not in self.dense_layers)

    @property
    def routed_parameters(self) -> int:
        """The number of parameters of all routed experts of all layers."""
        idle = self.parameters.total - self.parameters.active
        return idle * self.experts // (self.experts - self.top_k)

    @property
    def weights_gib(self) -> float:
        """The size of the published weights in GiB, up to 0.1 % too low for quantised experts.

        The biases of quantised experts are not quantised, but are counted as if they were.
        """
        rest = self.parameters.total - self.routed_parameters
        expert_bits = BITS[self.expert_weights or self.weights]
        return (self.routed_parameters * expert_bits + rest * BITS[self.weights]) / 8 / 2**30

    @property
    def summary(self) -> str:
        """A summary in one line: id, parameters, experts, layers and size."""
        total, active = (n / 1e9 for n in (self.parameters.total, self.parameters.active))
        shared = f" + {self.shared_experts:.3g} shared" if self.shared_experts else ""
        return (
            f"{self.hub_id or self.name}: {total:.2f}B parameters, {active:.2f}B active; "
            f"top-{self.top_k} of {self.experts} experts{shared} in {len(self.moe_layers)} of "
            f"{self.layers} layers; {self.weights_gib:.1f} GiB"
        )
