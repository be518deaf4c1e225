"""The edits as one kernel each on a GPU, where starting a kernel costs more than what it computes.

Inductor, the compiler of torch.compile, makes the kernel, once for any number of tokens. It is
called without dynamo, whose checks before each call cost more than the kernel saves. What dynamo
would check is checked here. Where no kernel can be made, the same operations run one by one, and a
warning says so.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Tensor])
_Kernel = Callable[[list[Tensor]], Sequence[Tensor]]
_Kind = tuple[torch.dtype, tuple[int, ...]]
"""A tensor's dtype and shape; -1 is the number of tokens."""

_TOKENS = 6  # any number but 0 and 1, which are compiled as constants


def one_kernel(function: _Function, device: torch.device) -> _Function:
    """Return `function` for tensors on `device`: on a GPU as one kernel, on a CPU unchanged.

    Args:
        function: of tensors; the first is [tokens, n]. Each one with two axes has tokens as first.
            The others, and all n, keep their shapes from call to call.
        device: the device.
    """
    return cast(_Function, _Compiled(function)) if device.type == "cuda" else function


class _Compiled:
    """A function that runs as a kernel where that is safe, else unchanged."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._kernels: dict[object, _Kernel | None] = {}

    def __call__(self, values: Tensor, second: Tensor, *others: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or values.requires_grad or values.ndim != 2:
            return self._function(values, second, *others)
        key = values.dtype, second.dtype, values.device
        if key not in self._kernels:
            kinds = tuple(map(_kind, (values, second, *others)))
            self._kernels[key] = _kernel(self._function, kinds, values.device)
        kernel = self._kernels[key]
        if kernel is None or not (values.is_contiguous() and second.is_contiguous()):
            return self._function(values, second, *others)
        return kernel([values, second, *others])[0]


def _kind(tensor: Tensor) -> _Kind:
    shape = tuple(tensor.shape)
    return tensor.dtype, (-1, shape[1]) if len(shape) == 2 else shape


@functools.cache
def _kernel(
    function: Callable[..., Tensor], kinds: tuple[_Kind, ...], device: torch.device
) -> _Kernel | None:
    """Return the checked kernel of a function; None, after a warning, if that fails."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            kernel = compile_kernel(function, _examples(kinds, device, _TOKENS))
            for tokens in (1, _TOKENS + 1):
                given = _examples(kinds, device, tokens)
                torch.testing.assert_close(kernel(list(given))[0], function(*given))
            return kernel
    except Exception as error:  # whatever is missing: Triton, a C compiler, a driver
        _warn(str(error).strip().split("\n")[0] or type(error).__name__)
        return None


@functools.cache
def _warn(reason: str) -> None:
    _LOG.warning(
        "steering runs its edits one operation at a time, some percent slower, because "
        "torch could not compile them on this GPU: %s",
        reason,
    )


def compile_kernel(function: Callable[..., Tensor], examples: Sequence[Tensor]) -> _Kernel:
    """Make a kernel for tensors whose first axis has any size where they have two axes.

    Nothing is checked when the kernel is called: all else must be as in `examples`.
    """
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    tokens = {0: torch.export.Dim.DYNAMIC}
    dynamic = tuple(tokens if one.ndim == 2 else None for one in examples)
    program = torch.export.export(_Module(function), tuple(examples), dynamic_shapes=(dynamic,))
    graph = program.run_decompositions(select_decomp_table()).graph_module
    fakes = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    # Sums of fewer than 8 values would be written out, and that makes a kernel of their own.
    with fakes[0].fake_mode, config.patch(unroll_reductions_threshold=1):
        compiled: Any = compile_fx_inner(graph, fakes)
    # What surrounds this callable keeps statistics of compilations.
    return cast(_Kernel, getattr(compiled, "current_callable", None) or compiled)


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *given: Tensor) -> Tensor:
        return self._function(*given)


def _examples(kinds: Sequence[_Kind], device: torch.device, tokens: int) -> tuple[Tensor, ...]:
    return tuple(_example(dtype, shape, device, tokens) for dtype, shape in kinds)


def _example(
    dtype: torch.dtype, shape: tuple[int, ...], device: torch.device, tokens: int
) -> Tensor:
    """Return values in (0, 1), or integers from 0 in each row; no random draw."""
    shape = tuple(tokens if size == -1 else size for size in shape)
    if not dtype.is_floating_point:
        return torch.arange(shape[-1], device=device).expand(shape).to(dtype).contiguous()
    count = torch.Size(shape).numel()
    return torch.linspace(0.1, 0.9, count, device=device).to(dtype).view(shape)
