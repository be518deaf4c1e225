"""Model cards: what is known of a model before it is loaded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Card, Count, Name

Billions = Annotated[str, Field(pattern=r"^\d+(\.\d+)?B$")]
BITS = {"float32": 32.0, "bfloat16": 16.0, "mxfp4": 4.25}
"""Bits of one weight; MXFP4 shares a scale of 8 bits among 32 weights of 4."""
Precision = Literal["float32", "bfloat16", "mxfp4"]


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
        answer_tokens: that a reasoning model is given, thinking included.
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
    answer_tokens: Count | None = None
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
        for name in ("think_end_token", "answer_tokens"):
            if (self.format == "reasoning") != (getattr(self, name) is not None):
                raise ValueError(f"{name} belongs to format reasoning, and to no other")
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
