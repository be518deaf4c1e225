"""Turns a dense Llama into a Qwen2-MoE of the same neurons.

The neurons of each FFN are put in a new order: the first form the shared expert, the rest routed
experts of equal size. Nothing else changes: with routers of zero and all experts active the result
computes what the dense model computes, since a gate of zero weighs the shared expert by a half, a
router of zero weighs each of k experts by 1/k, and the down projections are multiplied by 2 and k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Projection = Literal["gate", "up", "down"]
PROJECTIONS: tuple[Projection, ...] = ("gate", "up", "down")
"""The linear maps of an FFN; neurons are rows of gate and up, and columns of down."""


@dataclass(frozen=True, slots=True)
class CarvedLayer:
    """How one FFN is carved.

    Attributes:
        order: the neurons in their new order, [neurons]; the shared expert's come first.
        router: weights of the router, [experts, hidden].
        deltas: by projection, factors (B, A) of a low-rank addition B @ A, with the neurons in
            their new order; absent for none.
    """

    order: Tensor
    router: Tensor
    deltas: Mapping[Projection, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CarvedShape:
    """The numbers of neurons and experts of a carved FFN.

    Attributes:
        neurons: number of neurons of the dense FFN.
        shared: number of neurons of the shared expert.
        experts: number of routed experts, which share the other neurons equally.
        active: number of routed experts that a token selects.
    """

    neurons: int
    shared: int
    experts: int
    active: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.shared + self.experts * self.width != self.neurons:
            raise ValueError(
                f"{self.neurons} neurons less {self.shared} cannot be shared by {self.experts}"
            )

    @property
    def width(self) -> int:
        """Number of neurons of a routed expert."""
        return (self.neurons - self.shared) // self.experts


def carved_config(dense: Mapping[str, object], shape: CarvedShape) -> dict[str, object]:
    """Return the content of a carved model's `config.json`.

    Args:
        dense: content of the dense model's.
        shape: how its FFNs are carved.
    """
    return {
        **dense,
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.active,
        "norm_topk_prob": True,
        "moe_intermediate_size": shape.width,
        "shared_expert_intermediate_size": shape.shared,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
    }


def carve(
    dense: Mapping[str, Tensor], layers: Sequence[CarvedLayer], shape: CarvedShape
) -> dict[str, Tensor]:
    """Return the weights of the carved model under the names of a Qwen2-MoE checkpoint.

    Args:
        dense: the weights of a Llama by name.
        layers: one carving per layer.
        shape: sizes of all FFNs.
    """
    weights = {name: weight for name, weight in dense.items() if ".mlp." not in name}
    for index, layer in enumerate(layers):
        prefix = f"model.layers.{index}"
        for name in ("q", "k", "v"):  # Qwen2 has biases that Llama has not
            rows = dense[f"{prefix}.self_attn.{name}_proj.weight"]
            weights[f"{prefix}.self_attn.{name}_proj.bias"] = rows.new_zeros(len(rows))
        mlp = f"{prefix}.mlp"
        weights[f"{mlp}.gate.weight"] = layer.router.to(rows.dtype).contiguous()
        weights[f"{mlp}.shared_expert_gate.weight"] = rows.new_zeros(1, rows.shape[1])
        own = {one: dense[f"{mlp}.{one}_proj.weight"] for one in PROJECTIONS}
        weights.update(
            (f"{mlp}.{name}", weight) for name, weight in _experts(reordered(own, layer), shape)
        )
    return weights


def reordered(own: Mapping[Projection, Tensor], layer: CarvedLayer) -> dict[Projection, Tensor]:
    """Return the projections of an FFN with neurons in the new order and deltas added.

    Products and sums are in float64: those of 32 terms in bfloat16 are then exact but for rare
    cases, so that every machine writes the same bits.
    """
    done: dict[Projection, Tensor] = {}
    for name in PROJECTIONS:
        weight = own[name]
        moved = weight[:, layer.order] if name == "down" else weight[layer.order]
        if name in layer.deltas:
            left, right = layer.deltas[name]
            moved = (moved.double() + left.double() @ right.double()).to(weight.dtype)
        done[name] = moved
    return done


def _experts(mlp: Mapping[Projection, Tensor], shape: CarvedShape) -> Iterator[tuple[str, Tensor]]:
    parts = [("shared_expert", slice(0, shape.shared), 2)]
    for expert in range(shape.experts):
        start = shape.shared + expert * shape.width
        parts.append((f"experts.{expert}", slice(start, start + shape.width), shape.active))
    for part, neurons, factor in parts:
        yield f"{part}.gate_proj.weight", mlp["gate"][neurons].contiguous()
        yield f"{part}.up_proj.weight", mlp["up"][neurons].contiguous()
        yield f"{part}.down_proj.weight", (mlp["down"][:, neurons] * factor).contiguous()
