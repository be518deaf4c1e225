"""How far two models send the same tokens to the same experts, from the passes of two runs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..experts.tensor_files import read_tensors, tensor_names
from ..results.folder import RunFolder
from ..results.regression import RoutingAgreement
from ..runs.agreement import UnlikeRoutingError, compare_selections

_COLUMNS = ("document", "token", "experts")


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


def _shape(folder: RunFolder) -> tuple[tuple[int, ...], int]:
    """Return a run's MoE layers, and the number of experts in each."""
    if not folder.has(folder.identification):
        raise UnlikeRoutingError(f"{folder.root} has no {folder.identification.name}")
    counts = folder.read_json(folder.identification)
    return tuple(counts["layers"]), len(counts["used"][0][0])


def _passes(folder: RunFolder) -> list[Path]:
    """Return the folders of a run's passes that recorded routing; others have influence."""
    firsts = sorted(folder.observations.glob("*/batch-000000.safetensors"))
    try:
        found = [path.parent for path in firsts if tensor_names(path) >= {*_COLUMNS}]
    except ValueError as error:
        raise UserError(str(error)) from error
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
