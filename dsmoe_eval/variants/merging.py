"""A fine-tuned model as a whole checkpoint, for an engine that loads no adapters.

vLLM refuses LoRA on fused experts, or drops it silently; merged weights are a model like any other.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import FREE_SPACE, move_folder, passing_folder, writing
from ..models import LoadedModel, load_model
from ..models.probing import random_batch
from ..steering import find_routers, model_router_hash
from .recipes import fine_tuned, merge_trained

_SPARE = 64 * 2**20
"""Bytes beside the weights: the tokenizer, and what else is written meanwhile."""
_TOLERANCE = 1e-3
"""The most by which a logit of merged adapters may differ, relative to the largest change."""


def check_room(folder: Path, loaded: LoadedModel) -> None:
    """Check that the disk of a folder has room for a model's weights.

    Raises:
        UserError: it has not.
    """
    at = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    weights = {one.data_ptr(): one for one in loaded.model.state_dict().values()}
    needed = sum(one.numel() * one.element_size() for one in weights.values()) + _SPARE
    free = shutil.disk_usage(at).free
    if free < needed:
        raise UserError(
            f"{folder}: a fine-tuned or quantized arm needs {needed / 1e9:.1f} GB here while vLLM "
            f"answers, for its weights, and {free / 1e9:.1f} GB are free; {FREE_SPACE}"
        )


def write_merged(loaded: LoadedModel, adapters: Path, folder: Path) -> str:
    """Write the model with its trained weights in a folder, as safetensors with its tokenizer.

    The model in memory has the merged weights afterwards: load it again for anything else.

    Args:
        loaded: the model, not steered.
        adapters: the folder that `train_variant` wrote.
        folder: the folder to write, which exists and is empty.

    Returns:
        The `router_hash` of the merged model, which training of the routers changes.

    Raises:
        UserError: peft is not installed, the trained weights are damaged, the model is quantized,
            or the disk is full.
    """
    if getattr(loaded.model.config, "quantization_config", None) is not None:
        raise UserError(
            f"model {loaded.identity.name!r}: its weights are quantized, so that adapters cannot "
            "be merged into them; leave fine-tuning out, or take an unquantized checkpoint"
        )
    check_room(folder, loaded)
    merged = merge_trained(loaded.model, adapters)
    with writing(folder):
        merged.save_pretrained(folder, safe_serialization=True)
        loaded.tokenizer.save_pretrained(folder)
    return model_router_hash(find_routers(merged))


@dataclass(frozen=True, slots=True)
class MergeReport:
    """A comparison of a merged checkpoint with the fine-tuned model, on random tokens.

    Attributes:
        folder: the folder of the checkpoint.
        logit_max_difference: largest absolute difference of an output logit.
        logit_max_change: the same between the fine-tuned model and base, for scale.
    """

    folder: str
    logit_max_difference: float
    logit_max_change: float


def bake_trained(name: str, trained: Path, folder: Path, device: str | None = None) -> MergeReport:
    """Write a model with the trained weights of a run's arm as a checkpoint, and verify it.

    Args:
        name: a model with weights: a folder, an embedded model or a hub id.
        trained: the arm's folder, such as `out/arms/adapters/math--sft-esft-x3`.
        folder: the folder to write; it must not exist. It is not created if verification fails.
        device: a torch device for the verification.

    Raises:
        UserError: the model cannot be loaded, the trained weights are damaged, change nothing or
            are of another model, the folder exists, or the merged model is another one.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already; bake into a new folder")
    loaded = load_model(name, device)
    base = _logits(loaded)
    with fine_tuned(loaded.model, trained):
        tuned = _logits(loaded)
    change = float((tuned - base).abs().max())
    with passing_folder(folder) as draft:
        write_merged(loaded, trained, draft)
        merged = _logits(load_model(str(draft), device))
        report = MergeReport(str(folder), float((merged - tuned).abs().max()), change)
        if not change or report.logit_max_difference > _TOLERANCE * max(1.0, change):
            raise UserError(
                f"{trained}: nothing was kept, since the trained weights move logits by {change:g} "
                f"and the merged ones differ by {report.logit_max_difference:g}; train them again, "
                "or merge into a float32 copy of the model"
            )
        if not move_folder(draft, folder):
            raise UserError(f"{folder}: exists already; bake into a new folder")
    return report


@torch.no_grad()
def _logits(loaded: LoadedModel) -> Tensor:
    """Return the logits of random tokens, the same at each call, [tokens, vocabulary]."""
    ids, mask = random_batch(loaded.model)
    output = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False)
    logits: Tensor = output.logits.flatten(0, 1)[mask.flatten().bool()].float().cpu()
    return logits
