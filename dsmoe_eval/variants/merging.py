"""A fine-tuned model as a whole checkpoint, for an engine that loads no adapters.

vLLM refuses LoRA on fused experts, or drops it silently; merged weights are a model like any other.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import UserError
from ..files import FREE_SPACE, writing
from ..models import LoadedModel
from ..steering import find_routers, model_router_hash
from .recipes import merge_trained

_SPARE = 64 * 2**20
"""Bytes beside the weights: the tokenizer, and what else is written meanwhile."""


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
            f"{folder}: a fine-tuned arm needs {needed / 1e9:.1f} GB here while vLLM answers, for "
            f"the merged weights, and {free / 1e9:.1f} GB are free; {FREE_SPACE}"
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
