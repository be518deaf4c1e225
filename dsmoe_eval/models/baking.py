"""Baking: a checkpoint that carries a profile, verified against the steered original.

A bias is folded into a copy of the checkpoint. A mask of experts makes a smaller one, without them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..steering import (
    EXPERTS,
    Profile,
    Steering,
    SteeringError,
    capture_selected,
    find_sites,
    fold,
    steer,
)
from .loading import LoadedModel, load_model, model_folder
from .probing import random_batch
from .pruning import kept_by_layer, slice_experts

_LEAST_AGREEMENT = {torch.float32: 1.0}
_LEAST_AGREEMENT_HALF = 0.99
_LEAST_AGREEMENT_OF_NEURONS = 0.99
_LOGIT_TOLERANCE = 1e-3
_OTHER_WEIGHTS = {".bin", ".pt", ".pth", ".pkl"}
PROFILE = "dsmoe_profile.json"
"""The file of the profile that a checkpoint carries."""


@dataclass(frozen=True, slots=True)
class BakeReport:
    """A comparison of the baked model with the steered original on random tokens.

    Attributes:
        folder: the folder of the new checkpoint.
        parameters: names of the parameters that carry the profile, or that experts were taken out
            of.
        selection_agreement: share of (token, MoE layer) pairs with the same experts; of neurons,
            share of the selected ones that are the same.
        logit_max_difference: largest absolute difference of an output logit.
        logit_max_change: the same between the steered and the unsteered original, for scale.
    """

    folder: str
    parameters: tuple[str, ...]
    selection_agreement: float
    logit_max_difference: float
    logit_max_change: float

    def to_dict(self) -> dict[str, object]:
        """Return the report for `--json`."""
        return asdict(self)


def bake(name: str, profile: Profile, folder: Path, device: str | None = None) -> BakeReport:
    """Write a checkpoint that does what steering by `profile` does, and verify it.

    Args:
        name: a model with weights: a folder, an embedded model or a hub id.
        profile: a profile of that model.
        folder: the folder to write; it must not exist. It is not created if verification fails.
        device: a torch device for the verification.

    Raises:
        SteeringError: the profile is for another model or cannot be folded exactly, or the baked
            model differs from the steered one.
        UserError: the model cannot be loaded, or the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already; bake into a new folder")
    loaded = load_model(name, device, sites=profile.sites)
    steering = steer(loaded.model, profile)  # refuses a profile of another model
    if profile.intervention.kind == "mask" and profile.sites == EXPERTS:
        return _bake_smaller(name, loaded, steering, folder)
    values = fold(loaded.model, profile)
    originals = loaded.model.state_dict()
    with _in_the_making(folder) as making:
        _copy_checkpoint(model_folder(name), making, {k: (originals[k], values[k]) for k in values})
        (making / PROFILE).write_text(profile.to_json(), encoding="utf-8")
        with steering:
            steered = _run(loaded)
        baked = load_model(str(making), device, sites=profile.sites)
        return _prove(folder, tuple(values), _run(loaded), steered, baked)


def _bake_smaller(name: str, loaded: LoadedModel, steering: Steering, folder: Path) -> BakeReport:
    """Write a checkpoint without the experts that a profile masks."""
    profile, base = steering.profile, _run(loaded)
    with steering:
        logits, indices = _run(loaded)
    kept = torch.tensor(list(kept_by_layer(profile).values()))  # [layers, kept]
    renumbered = (indices.unsqueeze(-1) == kept[:, None].to(indices.device)).long().argmax(-1)
    small, names = slice_experts(loaded.model, profile)
    with _in_the_making(folder) as making:
        small.save_pretrained(making)
        for path in sorted(model_folder(name).iterdir()):
            if path.is_file() and not (_is_weights(path) or (making / path.name).exists()):
                shutil.copyfile(path, making / path.name)
        (making / PROFILE).write_text(profile.to_json(), encoding="utf-8")
        device = str(loaded.model.device)
        return _prove(folder, names, base, (logits, renumbered), load_model(str(making), device))


def _is_weights(path: Path) -> bool:
    """Return whether a file is weights or an index of them."""
    return path.suffix in {".safetensors", *_OTHER_WEIGHTS} or path.name.endswith(".index.json")


@contextmanager
def _in_the_making(folder: Path) -> Iterator[Path]:
    """Yield a draft beside `folder` that is renamed to `folder` if no error occurs."""
    making = folder.parent / f".{folder.name}.making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    try:
        yield making
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _copy_checkpoint(
    source: Path, target: Path, changes: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """Copy all files; in the shards, replace the old value of each change by the new one."""
    left = dict(changes)
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors":
            _copy_shard(path, target / path.name, left)
        elif path.is_file() and path.suffix not in _OTHER_WEIGHTS:
            shutil.copyfile(path, target / path.name)
    if left:
        raise UserError(
            f"{source}: its shards do not hold {', '.join(left)} as the model does; download them "
            "again"
        )


def _copy_shard(source: Path, target: Path, left: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Copy a shard with its changes and remove these from `left`.

    Parameters are matched by layer and value: names in checkpoints differ from those in models.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    found: dict[str, Tensor] = {}
    with safe_open(source, framework="pt") as shard:
        metadata = shard.metadata()
        for key in shard.keys():  # noqa: SIM118 - a safetensors file, not a dict
            for name, (old, new) in list(left.items()):
                if _layer(key) == _layer(name) and _is(shard, key, old):
                    found[key] = new
                    del left[name]
    if not found:
        shutil.copyfile(source, target)
        return
    tensors = load_file(source)
    for key, new in found.items():
        tensors[key] = new.to(device="cpu", dtype=tensors[key].dtype).contiguous()
    save_file(tensors, target, metadata=metadata)


def _layer(name: str) -> str:
    return name.partition("layers.")[2].partition(".")[0]


def _is(shard: Any, key: str, value: Tensor) -> bool:
    if tuple(shard.get_slice(key).get_shape()) != tuple(value.shape):
        return False
    return torch.equal(shard.get_tensor(key).to(value.dtype), value.cpu())


@torch.no_grad()
def _run(loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    """Return logits and selected experts on random tokens, [tokens, ...] each."""
    ids, mask = random_batch(loaded.model)
    kept, sites = mask.flatten().bool(), find_sites(loaded.model, loaded.identity.sites)
    with capture_selected(sites) as routing:
        logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    indices = routing.indices()[kept].sort(-1).values
    return logits.flatten(0, 1)[kept].float(), indices


def _least_agreement(dtype: torch.dtype, neurons: bool) -> float:
    """Return the least agreement of a baked model; in half precision, none of neurons.

    Which of many neurons is the last of the largest may depend on the last bit.
    """
    if neurons:
        return _LEAST_AGREEMENT_OF_NEURONS if dtype == torch.float32 else 0.0
    return _LEAST_AGREEMENT.get(dtype, _LEAST_AGREEMENT_HALF)


def _agreement(indices: Tensor, steered: Tensor, units: int, neurons: bool) -> float:
    """Compare two selections, [tokens, layers, k], each sorted; see `BakeReport`."""
    if not neurons:
        return float((indices == steered).all(-1).float().mean())
    none = torch.zeros(*indices.shape[:2], units, dtype=torch.bool, device=indices.device)
    both = none.scatter(-1, indices, True) & none.scatter(-1, steered, True)
    return float(both.sum(-1).float().mean() / indices.shape[-1])


def _prove(
    folder: Path,
    parameters: tuple[str, ...],
    base: tuple[Tensor, Tensor],
    steered: tuple[Tensor, Tensor],
    baked: LoadedModel,
) -> BakeReport:
    logits, indices = _run(baked)
    neurons = baked.identity.sites.kind == "neurons"
    agreed = _agreement(indices, steered[1], baked.identity.experts, neurons)
    report = BakeReport(
        folder=str(folder),
        parameters=parameters,
        selection_agreement=agreed,
        logit_max_difference=float((logits - steered[0]).abs().max()),
        logit_max_change=float((base[0] - steered[0]).abs().max()),
    )
    dtype = baked.model.dtype
    least = _least_agreement(dtype, neurons)
    tolerance = _LOGIT_TOLERANCE * (max(1.0, report.logit_max_change) if neurons else 1.0)
    exact = dtype != torch.float32 or report.logit_max_difference <= tolerance
    if not report.logit_max_change:
        raise SteeringError("the profile moves no output of this model: there is nothing to bake")
    closer = report.logit_max_difference < report.logit_max_change
    if report.selection_agreement < least or not exact or not closer:
        raise SteeringError(
            "the baked model does not do what the steered one does, nothing was kept: "
            f"{json.dumps(report.to_dict())}; in half precision the fold adds rounding of its own: "
            "bake a float32 copy, or steer at run time"
        )
    return report
