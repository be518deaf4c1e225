"""Loads a model and says exactly which one it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..lab import EMBEDDED_MODELS
from ..steering import ModelIdentity, SteeringError, find_routers, router_hash


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory with its tokenizer and identity."""

    model: Any
    tokenizer: Any
    identity: ModelIdentity

    @property
    def dtype(self) -> str:
        """Such as `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def experts_implementation(self) -> str:
        """How transformers computes the experts; an axis on which numbers may differ."""
        return str(getattr(self.model.config, "_experts_implementation", None))


def load_model(name: str, device: str | None = None) -> LoadedModel:
    """Load an embedded model, a local folder, or a hub id; safetensors only, no remote code.

    Args:
        name: `lab-poly`, a folder with `config.json`, or `organisation/model`.
        device: a torch device; by default the first GPU, or the CPU where there is none.

    Raises:
        UserError: nothing of that name, not a model folder, no safetensors, or no MoE.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = _locate(name)
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {target!r} is not to be had here: {_first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype="auto", trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {name!r} cannot be loaded: {_first_line(error)}") from error
    model = model.to(target).eval()
    try:
        routers = find_routers(model)
    except SteeringError as error:
        raise UserError(f"model {name!r}: {error}") from error
    identity = ModelIdentity(
        name=name,
        fingerprint=_fingerprint(place, model),
        routers=router_hash(routers),
        layers=tuple(router.layer for router in routers),
        experts=routers[0].experts,
    )
    return LoadedModel(model, tokenizer, identity)


def _locate(name: str) -> str:
    if name in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name])
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: a folder without config.json is no model")
        return str(folder)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise UserError(
            f"model {name!r}: no such folder, and not a hub id (organisation/model); embedded: "
            f"{', '.join(EMBEDDED_MODELS)}"
        )
    return name


def _fingerprint(place: str, model: Any) -> str:
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return str(commit)
    digest = hashlib.sha256()
    for path in sorted([Path(place) / "config.json", *Path(place).glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
