"""The edits as one kernel each on a GPU, where starting a kernel costs more than what it computes.

torch.compile makes the kernel. Where it cannot, the same operations run one by one, and a warning
says so.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def on_device(function: _Function, device: torch.device) -> _Function:
    """Return `function` for tensors on `device`: on a GPU compiled, on a CPU as it is."""
    return _compiled(function) if device.type == "cuda" and _can_compile() else function


@functools.cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


@functools.cache
def _can_compile() -> bool:
    """Check once that a kernel can be compiled and run on this machine's GPU."""
    try:
        probed = torch.compile(_probe, dynamic=True)(torch.zeros(2, device="cuda"))
        return bool(probed.sum() == 2)
    except Exception as error:  # whatever is missing: Triton, a C compiler, a driver
        _LOG.warning(
            "steering runs its edits one operation at a time, some percent slower, because "
            "torch.compile failed on this GPU: %s",
            str(error).strip().split("\n")[0],
        )
        return False


def _probe(values: torch.Tensor) -> torch.Tensor:
    return values * 2 + 1
