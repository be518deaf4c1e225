"""The state of a training in one safetensors file: tensors, the moments of Adam, and JSON about it.

A training that goes on from it makes the same steps bit for bit, if its steps depend on their
number alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import UserError
from ..files import write_bytes

_ABOUT = "training"
"""The key of the file's metadata that has the JSON."""
_MOMENTS = {"mean": "exp_avg", "square": "exp_avg_sq"}
"""The moment's name in a file -> in the state of torch's Adam and AdamW."""
Trained = Iterable[tuple[str, nn.Parameter]]
"""The trained parameters with their names, in an order of the caller's."""


def adam_moments(optimizer: torch.optim.Optimizer, trained: Trained, key: str) -> dict[str, Tensor]:
    """Return both moments of Adam of each parameter, as tensors of a file.

    Args:
        optimizer: Adam or AdamW, after at least one step.
        trained: the parameters.
        key: the names of tensors, with `{name}` and `{moment}`, which is `mean` or `square`.
    """
    return {
        key.format(name=name, moment=moment): optimizer.state[parameter][of]
        for name, parameter in trained
        for moment, of in _MOMENTS.items()
    }


def restore_moments(
    optimizer: torch.optim.Optimizer,
    trained: Trained,
    key: str,
    tensors: Mapping[str, Tensor],
    done: int,
) -> None:
    """Set the state of Adam to that of a file; see `adam_moments`.

    Args:
        optimizer: Adam or AdamW, of the same parameters.
        trained: the parameters.
        key: the names of tensors.
        tensors: those of the file.
        done: the number of steps done.
    """
    for name, parameter in trained:
        moments = {
            of: tensors[key.format(name=name, moment=moment)].to(parameter.device)
            for moment, of in _MOMENTS.items()
        }
        optimizer.state[parameter] = {"step": torch.tensor(float(done)), **moments}


def write_training_state(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]
) -> None:
    """Write a training's state, atomically.

    Args:
        path: the file.
        tensors: all tensors that the training goes on with.
        about: what can be said in JSON.
    """
    whole = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    write_bytes(path, save(whole, {_ABOUT: json.dumps(about)}))


def read_training_state(
    path: Path, expected: Mapping[str, object], way_out: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a training's state, and check that it is of this training.

    Args:
        path: the file from `write_training_state`.
        expected: those parts of its JSON by which trainings differ.
        way_out: what a user can do if they differ or the file is damaged.

    Returns:
        The tensors and the JSON.

    Raises:
        UserError: it is of another training, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = json.loads(opened.metadata()[_ABOUT])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {way_out}") from error
    for name, ours in expected.items():
        if (theirs := about.get(name)) != ours:
            raise UserError(
                f"{path}: is of another training ({name} {theirs}, now {ours}); {way_out}"
            )
    return tensors, about
