"""Files of tensors that are complete or absent, and hold the hash of their content."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically, with the hash of its content as metadata."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        save_file(tensors, draft, metadata={"sha256": _hash(path.name, tensors)})
        os.replace(draft, path)
    except SafetensorError as error:  # such as a full disk
        raise OSError(errno.EIO, str(error), str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that `save_tensors` wrote.

    Raises:
        ValueError: the file is damaged, or was changed after it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            known = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it and run again") from error
    if known != _hash(path.name, tensors):
        raise ValueError(f"{path}: was changed after it was written; remove it and run again")
    return tensors


def tensor_names(path: Path) -> frozenset[str]:
    """Return the names of a file's tensors, without reading these.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return frozenset(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it and run again") from error


def _hash(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the hash over a file's name and all that its tensors hold."""
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        digest.update(plain.cpu().numpy().tobytes())
    return digest.hexdigest()
