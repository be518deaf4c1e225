"""How far two models send the same tokens to the same experts, from the passes of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..experts.tensor_files import read_tensors
from ..results.folder import RunFolder
from ..results.regression import RoutingAgreement

_COLUMNS = ("document", "token", "experts")


class UnlikeRoutingError(Exception):
    """An error: the selections of two models cannot be compared, and why."""


def routing_agreement(old: RunFolder, new: RunFolder) -> RoutingAgreement:
    """Compare the selections of two models on the prompts of the identification text.

    Raises:
        UnlikeRoutingError: a run has no recorded routing, or the models differ in layers, experts
            or tokens.
        UserError: a file of the routing is damaged.
    """
    layers, experts = _shape(old)
    if (layers, experts) != _shape(new):
        raise UnlikeRoutingError("the models differ in their MoE layers or experts")
    for one, other in product(_passes(old), _passes(new)):
        both = _read(one), _read(other)
        documents, tokens = (
            [rows[name] for rows in both] for name in ("document", "token")
        )  # fmt: skip
        if torch.equal(*documents) and torch.equal(*tokens):
            return compare_selections(both[0]["experts"], both[1]["experts"], layers, experts)
    raise UnlikeRoutingError("the models do not read the same tokens")


def compare_selections(
    a: Tensor, b: Tensor, layers: Sequence[int], experts: int
) -> RoutingAgreement:
    """Compare two models' selections, integers of shape [tokens, layers, k].

    Args:
        a: the selections of one model.
        b: those of another, of the same tokens in the same order.
        layers: the numbers of the layers.
        experts: the number of experts in each layer.

    Raises:
        UnlikeRoutingError: the models select another number of experts per token.
    """
    if a.shape != b.shape:
        raise UnlikeRoutingError("the models do not select the same number of experts per token")
    tokens, _, k = a.shape
    shared, by_chance = [], []
    for place in range(len(layers)):  # layer by layer: a pass may be large
        one, other = a[:, place].long(), b[:, place].long()
        same = (one.unsqueeze(2) == other.unsqueeze(1)).sum()
        shared.append(int(same) / (tokens * k))
        use = [
            side.flatten().bincount(minlength=experts).double() / tokens for side in (one, other)
        ]
        by_chance.append(float(use[0] @ use[1]) / k)
    return RoutingAgreement(
        tokens=tokens,
        layers=tuple(layers),
        shared=sum(shared) / len(shared),
        by_chance=min(sum(by_chance) / len(by_chance), 1.0),
        shared_by_layer=tuple(shared),
    )


def _shape(folder: RunFolder) -> tuple[tuple[int, ...], int]:
    """Return a run's MoE layers, and the number of experts in each."""
    if not folder.has(folder.identification):
        raise UnlikeRoutingError(f"{folder.root} has no {folder.identification.name}")
    counts = folder.read_json(folder.identification)
    return tuple(counts["layers"]), len(counts["used"][0][0])


def _passes(folder: RunFolder) -> list[Path]:
    """Return the folders of a run's passes that recorded routing."""
    found = sorted({path.parent for path in folder.observations.glob("*/batch-*.safetensors")})
    if not found:
        raise UnlikeRoutingError(f"{folder.observations} has no recorded routing")
    return found


def _read(path: Path) -> dict[str, Tensor]:
    """Return the rows of the tokens that no model generated, document by document."""
    parts: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
    for file in sorted(path.glob("batch-*.safetensors")):
        try:
            columns = read_tensors(file)
        except ValueError as error:
            raise UserError(str(error)) from error
        for name, rows in parts.items():
            rows.append(columns[name][~columns["generated"]])
    joined = {name: torch.cat(rows) for name, rows in parts.items()}
    order = joined["document"].argsort(stable=True)
    return {name: rows[order] for name, rows in joined.items()}
