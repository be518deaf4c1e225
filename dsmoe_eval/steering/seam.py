"""The one place where a router is changed.

A router holds exactly one linear that gives [tokens, experts] logits, before scoring and selection.
`attach` swaps the module's class for a subclass whose `forward` is the original with that one call
wrapped, so that selection, renormalisation and everything else stay the model's own code. A plain
forward hook that edits the returned logits would change nothing: since transformers 5 the block
ignores them.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .errors import SteeringError
from .interventions import LayerEffect, reweight, shift_logits

_EFFECT = "_dsmoe_effect"
_LOGITS_METHOD = "_dsmoe_shift"
_CLASS = "_dsmoe_class"


def attach(module: nn.Module, effect: LayerEffect) -> None:
    """Make `module`, a router, apply `effect` from its next call on.

    Raises:
        SteeringError: the router is steered already, its forward was replaced by somebody else, or
            its source does not hold exactly one linear.
    """
    if is_attached(module):
        raise SteeringError("the model is steered already; remove that steering first")
    if "forward" in vars(module):
        raise SteeringError(
            f"{type(module).__name__}: another tool has replaced its forward (accelerate's hooks "
            "do); steer before that, or load without device_map"
        )
    original: Any = type(module)  # mypy takes an nn.Module class for unhashable
    steered = _steered_class(original)
    setattr(module, _EFFECT, effect)
    module.__class__ = steered


def detach(module: nn.Module) -> None:
    """Give `module` its own class back; nothing of the steering stays."""
    if is_attached(module):
        module.__class__ = type(module).__bases__[0]
        delattr(module, _EFFECT)


def is_attached(module: nn.Module) -> bool:
    """True while `module` is steered."""
    return hasattr(module, _EFFECT)


def _shift(module: nn.Module, logits: Tensor) -> Tensor:
    effect: LayerEffect = getattr(module, _EFFECT)
    return logits if effect.logit_shift is None else shift_logits(logits, effect.logit_shift)


@functools.cache
def _steered_class(cls: Any) -> type[nn.Module]:
    original = _rewritten_forward(cls)

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, indices = original(self, *args, **kwargs)
        effect: LayerEffect = getattr(self, _EFFECT)
        if effect.weight_factor is not None:
            weights = reweight(weights, indices, effect.weight_factor)
        return logits, weights, indices

    body = {"forward": forward, _LOGITS_METHOD: _shift, "__module__": __name__}
    return type(f"Steered{cls.__name__}", (cls,), body)


def _rewritten_forward(cls: type[nn.Module]) -> Callable[..., Any]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.forward)))
    except (OSError, TypeError, SyntaxError) as error:
        raise SteeringError(f"{cls.__name__}: the source of its forward is not there") from error
    wrapper = _WrapLinear()
    tree = ast.fix_missing_locations(wrapper.visit(tree))
    if wrapper.hits != 1:
        raise SteeringError(
            f"{cls.__name__}: its forward holds {wrapper.hits} linear calls where a router holds "
            "one; this version cannot steer it"
        )
    namespace = {**vars(sys.modules[cls.__module__]), _CLASS: cls}
    # The code is the model's own source with one call wrapped; nothing foreign is run.
    exec(compile(tree, f"<steered {cls.__name__}.forward>", "exec"), namespace)  # noqa: S102
    forward: Callable[..., Any] = namespace["forward"]
    return forward


class _WrapLinear(ast.NodeTransformer):
    """Turns the call that gives the logits into `self._dsmoe_shift(<the call>)`, and counts.

    That call is `F.linear(...)`, or `super().forward(...)` in a router that is itself a linear.
    """

    def __init__(self) -> None:
        self.hits = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _is_super(node):
            # Outside its class body a bare super() no longer knows its class.
            node.args = [ast.Name(_CLASS, ast.Load()), ast.Name("self", ast.Load())]
            return node
        function = node.func
        if not isinstance(function, ast.Attribute):
            return node
        if not (
            function.attr == "linear" or (function.attr == "forward" and _is_super(function.value))
        ):
            return node
        self.hits += 1
        method = ast.Attribute(ast.Name("self", ast.Load()), _LOGITS_METHOD, ast.Load())
        return ast.copy_location(ast.Call(method, [node], []), node)


def _is_super(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )
