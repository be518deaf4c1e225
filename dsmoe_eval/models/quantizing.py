"""Quantization of experts as rounding: what weight-only inference computes, up to kernel rounding.

Each expert's weights are rounded in groups along the input, symmetrically, and stay in their dtype,
so that every architecture and engine computes them, also on a CPU. Libraries for quantization often
leave fused experts unquantized without a word: `quantized_share` measures what was done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn

from ..cards import Rounding
from ..errors import UserError
from ..files import writing
from ..steering import Router, find_routers
from .loading import LoadedModel, load_model, model_folder
from .restoring import restoring

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUP = 128
MARK = "dsmoe_quantized.json"
"""The file by which a folder says that its experts are rounded."""
_MOST = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}
"""The largest number of each form; fp8 is e4m3."""
_NARROW = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)
_DISTINCT, _BLOCK = 16, 32


def round_weights(weights: Tensor, form: Rounding, group: int = GROUP) -> Tensor:
    """Round weights to a form, symmetrically in groups along the last axis.

    A group's scale is its largest size over the form's largest number; the last group may be short.

    Args:
        weights: [..., input], any float dtype.
        form: `int8`, `int4`, or `fp8` (e4m3).
        group: the number of weights of a group; 0: the whole row.

    Returns:
        The rounded weights, in the shape and dtype of `weights`.
    """
    size = group or weights.shape[-1]
    rows = nn.functional.pad(weights.float(), (0, -weights.shape[-1] % size))
    groups = rows.reshape(*rows.shape[:-1], -1, size)
    scale = groups.abs().amax(-1, keepdim=True) / _MOST[form]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled = groups / scale
    if form == "fp8":
        rounded = scaled.to(torch.float8_e4m3fn).float()
    else:
        rounded = scaled.round().clamp(-_MOST[form], _MOST[form])
    whole: Tensor = (rounded * scale).flatten(-2)[..., : weights.shape[-1]]
    return whole.to(weights.dtype)


@torch.no_grad()
def round_experts(model: PreTrainedModel, form: Rounding) -> None:
    """Round the weights of all routed experts of a model, in memory; biases stay.

    Raises:
        UserError: the experts are quantized already.
    """
    routers = find_routers(model)
    for router in routers:
        for name, weights in _matrices(router):
            wide = weights.is_floating_point() and weights.dtype not in _NARROW
            if not (wide and _is_plain(weights)):
                raise UserError(
                    f"layer {router.layer}: {name!r} of the experts is quantized already "
                    f"({type(weights).__name__} of {weights.dtype}); "
                    "take an unquantized checkpoint"
                )
    for router in routers:
        for _, weights in _matrices(router):
            for expert in weights:  # one by one, for memory
                expert.copy_(_upright(router, round_weights(_upright(router, expert), form)))


@contextmanager
def rounded_experts(model: PreTrainedModel, form: Rounding) -> Iterator[float]:
    """Round the experts' weights inside the context; afterwards each bit is as before.

    The original weights are kept in the CPU's memory meanwhile.

    Yields:
        The `quantized_share` of the rounded model.

    Raises:
        UserError: as `round_experts`.
    """
    with restoring([one for router in find_routers(model) for _, one in _matrices(router)]):
        round_experts(model, form)
        yield quantized_share(model)


def save_rounded(loaded: LoadedModel, form: Rounding, folder: Path) -> float:
    """Write a model with rounded experts and its tokenizer in a folder, which exists and is empty.

    The model in memory is rounded afterwards, or in part after an error: load it again for anything
    else. A copy to restore it from would take as much memory again.

    Returns:
        Its `quantized_share`.

    Raises:
        UserError: as `round_experts`, or the disk is full.
    """
    round_experts(loaded.model, form)
    with writing(folder):
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return quantized_share(loaded.model)


@torch.no_grad()
def quantized_share(model: PreTrainedModel) -> float:
    """Compute the share of the bytes of the routed experts' weights that are quantized.

    Weights of a narrow dtype, or of a library's quantized tensors, are. Weights in a wide dtype are
    where every group lies on a grid: one of `round_weights`, in groups of 128, 64, 32 or a row, or
    of 16 distinct numbers per 32 weights, as 4 bits give.
    """
    done = total = 0
    for router in find_routers(model):
        for _, weights in _matrices(router):
            size = weights.numel() * weights.element_size()
            total += size
            if weights.dtype in _NARROW or not _is_plain(weights):
                done += size
            else:
                on = [_lies_on_grid(_upright(router, expert)) for expert in weights]
                done += size * sum(on) // len(on)
    return done / total if total else 0.0


@dataclass(frozen=True, slots=True)
class QuantizationProbe:
    """What a model claims of its quantization, and what is found in its experts.

    Attributes:
        claimed: what its configuration or its folder says; None: it claims nothing.
        share: the share of the experts' bytes that is quantized.
    """

    claimed: str | None
    share: float

    @property
    def passed(self) -> bool:
        """Whether experts are quantized if the model claims to be."""
        return self.claimed is None or self.share > 0

    def to_dict(self) -> dict[str, object]:
        """Return the probe for `--json`."""
        return {**asdict(self), "passed": self.passed}


def probe_quantization(name: str, model: PreTrainedModel) -> QuantizationProbe:
    """Compare what a model claims of its quantization with its experts.

    Args:
        name: as for `load_model`.
        model: that model in memory.
    """
    claimed = None
    settings = getattr(model.config, "quantization_config", None)
    if settings is not None:
        said = settings if isinstance(settings, dict) else settings.to_dict()
        method = said.get("quant_method")  # of transformers, an Enum
        claimed = str(getattr(method, "value", method))
    elif (Path(name) / MARK).is_file():
        claimed = str(json.loads((Path(name) / MARK).read_text(encoding="utf-8"))["form"])
    return QuantizationProbe(claimed, quantized_share(model))


def write_quantized(name: str, form: Rounding, folder: Path) -> QuantizationProbe:
    """Write a copy of a model whose experts are rounded, and measure what is loaded of it.

    Raises:
        UserError: the model cannot be loaded, the folder exists, or the disk is full.
    """
    if form not in get_args(Rounding):
        raise UserError(f"no form {form!r}; there are: {', '.join(get_args(Rounding))}")
    if folder.exists():
        raise UserError(f"{folder}: exists already; write into a new folder")
    loaded = load_model(name, "cpu")
    round_experts(loaded.model, form)
    making = folder.parent / f".{folder.name}.making"
    shutil.rmtree(making, ignore_errors=True)
    try:
        with writing(making):
            making.mkdir(parents=True)
            loaded.model.save_pretrained(making)
            _copy_others(model_folder(name), making)
            mark = {"form": form, "group": GROUP, "of": loaded.identity.fingerprint}
            (making / MARK).write_text(json.dumps(mark), encoding="utf-8")
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return probe_quantization(str(folder), load_model(str(folder), "cpu").model)


def _copy_others(source: Path, target: Path) -> None:
    """Copy the files that are neither weights nor there already, such as the tokenizer."""
    for path in sorted(source.iterdir()):
        wanted = path.suffix in {".json", ".txt", ".jinja", ".model"} and path.is_file()
        there = (target / path.name).exists() or path.name.endswith(".index.json")
        if wanted and not there:
            shutil.copyfile(path, target / path.name)


def _matrices(router: Router) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a layer's experts, [experts, ...]; biases are no matrices."""
    for name, parameter in router.consumer.named_parameters():
        if parameter.ndim == 3:
            yield name, parameter.data


def _upright(router: Router, expert: Tensor) -> Tensor:
    """Return an expert's weights with the input along the last axis, or the other way round."""
    return expert.mT if getattr(router.consumer, "is_transposed", False) else expert


def _is_plain(weights: Tensor) -> bool:
    """Return whether it is a tensor of torch's, and not of a library for quantization."""
    return type(weights) in (Tensor, nn.Parameter)


def _lies_on_grid(weights: Tensor) -> bool:
    """Return whether all groups of an expert's weights lie on a grid, up to rounding."""
    wide = weights.float()
    tolerance = 4 * torch.finfo(weights.dtype).eps * wide.abs()
    forms: tuple[Rounding, ...] = get_args(Rounding)
    for group in (GROUP, 64, _BLOCK, 0):
        for form in forms:
            if bool(((round_weights(wide, form, group) - wide).abs() <= tolerance).all()):
                return True
    return _few_numbers(wide)


def _few_numbers(weights: Tensor) -> bool:
    """Return whether each 32 weights along the input have at most 16 distinct numbers."""
    if weights.shape[-1] % _BLOCK:
        return False
    ordered = weights.reshape(-1, _BLOCK).sort(-1).values
    distinct = 1 + (ordered.diff(dim=-1) != 0).sum(-1)
    return bool((distinct <= _DISTINCT).all())
