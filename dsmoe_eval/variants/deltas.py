"""Changes of some rows of a model's weights, in float32, that are trained, applied and taken back.

A delta is added to the chosen rows of a parameter in float32, and rounded to the parameter's dtype.
All other rows keep their bits: no optimizer sees them. A model whose weights are in bfloat16 needs
the float32: a step of AdamW at the usual rates is below half a unit of most weights and would be
rounded away, as in ESFT's published code (see docs/variants.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError
from ..steering import ChosenExpert, Router, find_routers
from .fitting import Lessons, fit, left_unchanged

DELTAS = "deltas.safetensors"
"""The file that `write_deltas` writes."""
_ROWS = "#rows"
_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class WeightPart:
    """A part of a model's weights.

    Attributes:
        name: the parameter.
        rows: the rows of its first dimension; None: all of them.
    """

    name: str
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A change of some rows of a parameter.

    Attributes:
        rows: [rows], their indices; None: all rows.
        values: [rows, ...], in float32.
    """

    rows: Tensor | None
    values: Tensor

    def added_to(self, weight: Tensor) -> Tensor:
        """Compute the chosen rows with their change, rounded to the weight's dtype."""
        chosen = weight if self.rows is None else weight[self.rows]
        exact = torch.promote_types(weight.dtype, self.values.dtype)
        return (chosen.to(exact) + self.values).to(weight.dtype)

    def whole(self, weight: Tensor) -> Tensor:
        """Compute the whole parameter with the change."""
        new = self.added_to(weight)
        return new if self.rows is None else weight.index_copy(0, self.rows, new)


Deltas = Mapping[str, Delta]
"""Name of a parameter -> its change."""


def router_parts(model: nn.Module) -> tuple[WeightPart, ...]:
    """Return the weights of the linear layers that give the routers' logits, and nothing else."""
    names = _names(model)
    return tuple(
        WeightPart(names[id(_checked(router.weight, router.name))])
        for router in find_routers(model)
    )


def expert_parts(model: nn.Module, chosen: Sequence[ChosenExpert]) -> tuple[WeightPart, ...]:
    """Return all weights of the chosen experts, whether fused or modules.

    Raises:
        UserError: this model's experts hold no weights by expert, or not as numbers in memory.
    """
    names, by_layer = _names(model), dict[int, list[int]]()
    for one in chosen:
        by_layer.setdefault(one.layer, []).append(one.expert)
    parts: list[WeightPart] = []
    for router in find_routers(model):
        if experts := sorted(by_layer.get(router.layer, ())):
            parts += _experts_of(router, experts, names)
    return tuple(parts)


def _experts_of(
    router: Router, experts: Sequence[int], names: Mapping[int, str]
) -> list[WeightPart]:
    found: list[WeightPart] = []
    for module in _holders(router):
        if isinstance(module, nn.ModuleList):
            weights = [one for expert in experts for one in module[expert].parameters()]
            found += [WeightPart(names[id(_checked(one, router.name))]) for one in weights]
            continue
        for weight in module.parameters():
            if weight.ndim > 1 and len(weight) == router.experts:
                found.append(WeightPart(names[id(_checked(weight, router.name))], tuple(experts)))
    if not found:
        raise UserError(
            f"layer {router.layer}: {type(router.consumer).__name__} holds no weights by expert; "
            "sft-esft cannot train single experts of this model, so leave it out"
        )
    return found


def _holders(router: Router) -> list[nn.Module]:
    """Return the modules that hold the experts' weights: one, or those that compute in turn."""
    if router.consumer is getattr(router.block, "experts", None):
        return [router.consumer]
    parts = [child for child in router.block.children() if child is not router.module]
    return [part for part in parts if getattr(part, "num_experts", 0) == router.experts]


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _checked(weight: Tensor, router: str) -> Tensor:
    if weight.is_meta or weight.dtype not in _PRECISIONS:
        raise UserError(
            f"router {router!r}: its layer's weights are {weight.dtype} on {weight.device}; "
            "training needs unquantized weights in memory, so load a dequantized checkpoint on one "
            "device, or leave sft-esft, sft-router and router-lens out"
        )
    return weight


def train_deltas(
    model: nn.Module,
    parts: Sequence[WeightPart],
    lessons: Lessons,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, Delta]:
    """Train deltas of some parts of a model, which is unchanged afterwards.

    Args:
        model: a transformers MoE causal language model, not steered.
        parts: what is trained; see `expert_parts` and `router_parts`.
        lessons: the texts and the pace.
        on_step: called after each step.
    """
    torch.manual_seed(lessons.seed)
    with left_unchanged(model):
        model.requires_grad_(False).train()
        weights = {part.name: model.get_parameter(part.name) for part in parts}
        deltas = {part.name: _zero(part, weights[part.name]) for part in parts}

        def loss(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            changed = {name: one.whole(weights[name]) for name, one in deltas.items()}
            given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            output = torch.func.functional_call(model, changed, args=(), kwargs=given)
            value: Tensor = output.loss
            return value

        values = [one.values for one in deltas.values()]
        fit(loss, [one for one in values if isinstance(one, nn.Parameter)], lessons, on_step)
    return {name: Delta(one.rows, one.values.detach()) for name, one in deltas.items()}


def _zero(part: WeightPart, weight: Tensor) -> Delta:
    rows = None if part.rows is None else torch.tensor(part.rows, device=weight.device)
    size = weight.shape if rows is None else (len(rows), *weight.shape[1:])
    values = torch.zeros(size, dtype=torch.float32, device=weight.device)
    return Delta(rows, nn.Parameter(values))


@torch.no_grad()
def changed_rows(model: nn.Module, deltas: Deltas) -> tuple[int, int]:
    """Count the trained rows of parameters whose bits a delta changes, and all trained rows.

    Returns:
        Their numbers, the changed ones first: a delta may be too small for the weights' dtype.
    """
    changed = total = 0
    for name, delta in deltas.items():
        weight = model.get_parameter(name)
        before = weight if delta.rows is None else weight[delta.rows]
        new = (delta.added_to(weight) != before).flatten(1).any(1)
        changed, total = changed + int(new.sum()), total + len(new)
    return changed, total


def write_deltas(folder: Path, deltas: Deltas) -> None:
    """Write deltas to a folder, as `DELTAS`."""
    tensors = {name: one.values.cpu().contiguous() for name, one in deltas.items()}
    rows = {name: one.rows for name, one in deltas.items()}
    tensors |= {name + _ROWS: one.cpu() for name, one in rows.items() if one is not None}
    save_file(tensors, folder / DELTAS)


def read_deltas(folder: Path, model: nn.Module) -> dict[str, Delta]:
    """Read the deltas of a folder, on the devices of a model's weights.

    Raises:
        UserError: the file is damaged, or its deltas are of another model.
    """
    path = folder / DELTAS
    try:
        tensors = load_file(path)
        return {
            name: _fitting(model.get_parameter(name), tensors.get(name + _ROWS), values)
            for name, values in tensors.items()
            if not name.endswith(_ROWS)
        }
    except (SafetensorError, OSError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be put on this model ({error}); delete {folder} and run again"
        ) from error


def _fitting(weight: Tensor, rows: Tensor | None, values: Tensor) -> Delta:
    size = weight.shape if rows is None else (len(rows), *weight.shape[1:])
    if values.shape != size or (rows is not None and not bool((rows < len(weight)).all())):
        raise ValueError(f"a change of {tuple(values.shape)} for a weight of {tuple(weight.shape)}")
    return Delta(None if rows is None else rows.to(weight.device), values.to(weight.device))


@torch.no_grad()
def put_deltas(model: nn.Module, deltas: Deltas) -> None:
    """Add deltas to the weights in place."""
    for name, delta in deltas.items():
        weight = model.get_parameter(name)
        _write(weight, delta, delta.added_to(weight))


@torch.no_grad()
def _rows(weight: Tensor, delta: Delta) -> Tensor:
    return (weight if delta.rows is None else weight[delta.rows]).clone()


def _write(weight: Tensor, delta: Delta, rows: Tensor) -> None:
    if delta.rows is None:
        weight.copy_(rows)
    else:
        weight.index_copy_(0, delta.rows, rows)


@contextmanager
def with_deltas(model: nn.Module, deltas: Deltas) -> Iterator[None]:
    """Put deltas on the weights inside the context; afterwards each bit is as before."""
    before = {name: _rows(model.get_parameter(name), delta) for name, delta in deltas.items()}
    try:
        put_deltas(model, deltas)
        yield
    finally:
        with torch.no_grad():
            for name, delta in deltas.items():
                _write(model.get_parameter(name), delta, before[name])
