"""The patch that edits a router's logits and weights; no other module changes a router's code.

A router has exactly one linear layer that gives the [tokens, experts] logits before scoring and
selection. `attach` swaps the module's class for a subclass whose `forward` is the original with
that one call wrapped, so that selection, renormalisation and all else remain the model's code. A
plain forward hook that edits the returned logits would change nothing: since transformers 5 the
block ignores them. Where the block selects experts from a router's logits, weights are edited at
the experts' input instead.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .errors import SteeringError
from .forms import write
from .routers import Router

_EDIT = "_dsmoe_edit"
_ROUTER = "_dsmoe_router"
_AT_EXPERTS = "_dsmoe_at_experts"
_LOGITS_METHOD = "_dsmoe_logits"
_FACTORY = "_dsmoe_factory"
_ACCELERATE = "_old_forward"

At = int | str
"""An argument of a call: its position or its name."""
Given = dict[At, Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """The two edits inside a router.

    Attributes:
        logits: edits the logits [tokens, experts] before scoring.
        weights: edits the weights after selection, from (weights, indices), each [tokens, k].
    """

    logits: Callable[[Tensor], Tensor]
    weights: Callable[[Tensor, Tensor], Tensor]


def attach(router: Router, edit: Edit) -> None:
    """Make a router apply `edit` from its next call on.

    accelerate's hooks keep the original forward; that reference is replaced as well.

    Raises:
        SteeringError: the router is already steered, another tool replaced its forward, or its
            source does not have exactly one linear layer over the experts.
    """
    module = router.module
    if is_attached(module):
        raise SteeringError("the model is steered already; remove that steering first")
    if "forward" in vars(module) and not _is_hooked_by_accelerate(module):
        raise SteeringError(
            f"{type(module).__name__}: another tool replaced its forward; steer before it runs"
        )
    original: Any = type(module)  # mypy treats an nn.Module class as unhashable
    steered = _steered_class(original, _expert_linears(router), router.selects)
    setattr(module, _EDIT, edit)
    setattr(module, _ROUTER, router)
    module.__class__ = steered
    _rebind(module, original, steered)
    if not router.selects:
        # First of all hooks, so that what is captured there is what the experts receive.
        hook = router.consumer.register_forward_pre_hook(
            _edited_input(router, edit), prepend=True, with_kwargs=True
        )
        setattr(module, _AT_EXPERTS, hook)


def detach(module: nn.Module) -> None:
    """Restore the original class of `module` and remove every trace of the patch."""
    if is_attached(module):
        steered, original = type(module), type(module).__bases__[0]
        module.__class__ = original
        # accelerate's hooks may have come after the patch and kept the patched forward.
        _rebind(module, steered, original)
        if hook := vars(module).pop(_AT_EXPERTS, None):
            hook.remove()
        delattr(module, _EDIT)
        delattr(module, _ROUTER)


def is_attached(module: nn.Module) -> bool:
    """Return whether `module` is steered."""
    return hasattr(module, _EDIT)


def experts_input(router: Router, args: Any, kwargs: Any) -> tuple[Given, At, At]:
    """Return the arguments of the experts' call, and which are the weights and the indices.

    Raises:
        SteeringError: there are none of shape [tokens, k].
    """
    given: Given = {**dict(enumerate(args)), **kwargs}
    tensors = {at: value for at, value in given.items() if isinstance(value, Tensor)}
    chosen = [a for a, one in tensors.items() if one.ndim == 2 and one.shape[-1] == router.top_k]
    indices = [at for at in chosen if not tensors[at].is_floating_point()]
    weights = [at for at in chosen if tensors[at].is_floating_point()]
    if len(indices) != 1 or not weights:
        raise SteeringError(
            f"layer {router.layer}: the experts' input does not hold one index tensor "
            "and one weight tensor of shape [tokens, k]; this version cannot read its routing"
        )
    return given, weights[-1], indices[0]


def _edited_input(router: Router, edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Given]:
        given, weights, indices = experts_input(router, args, kwargs)
        given[weights] = edit.weights(given[weights], given[indices])
        return tuple(given[at] for at in range(len(args))), {name: given[name] for name in kwargs}

    return hook


def _is_hooked_by_accelerate(module: nn.Module) -> bool:
    former = vars(module).get(_ACCELERATE)
    return "_hf_hook" in vars(module) and isinstance(former, MethodType)


def _rebind(module: nn.Module, old: Any, new: Any) -> None:
    former = vars(module).get(_ACCELERATE)
    if isinstance(former, MethodType) and former.__func__ is old.forward:
        setattr(module, _ACCELERATE, MethodType(new.forward, module))


def _expert_linears(router: Router) -> frozenset[str]:
    """Return the names of child linear layers that give the logits."""
    logits, children = len(router.weight), router.module.named_children()
    return frozenset(n for n, c in children if getattr(c, "out_features", 0) == logits)


@functools.cache
def _steered_class(cls: Any, linears: frozenset[str], selects: bool) -> type[nn.Module]:
    original = _rewritten_forward(cls, linears)

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        edit: Edit = getattr(self, _EDIT)
        return write(getattr(self, _ROUTER), output, edit.weights) if selects else output

    def edit_logits(self: nn.Module, logits: Tensor) -> Tensor:
        edit: Edit = getattr(self, _EDIT)
        experts = getattr(self, _ROUTER).experts
        if logits.shape[-1] == experts:
            return edit.logits(logits)
        # The others are of experts that are always on.
        return torch.cat([edit.logits(logits[..., :experts]), logits[..., experts:]], dim=-1)

    body = {"forward": forward, _LOGITS_METHOD: edit_logits, "__module__": __name__}
    return type(f"Steered{cls.__name__}", (cls,), body)


def _rewritten_forward(cls: type[nn.Module], linears: frozenset[str]) -> Callable[..., Any]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.forward)))
    except (OSError, TypeError, SyntaxError) as error:
        raise SteeringError(
            f"{cls.__name__}: the source code of its forward is not available"
        ) from error
    wrapper = _WrapLinear(linears)
    tree = wrapper.visit(tree)
    if wrapper.hits != 1:
        raise SteeringError(
            f"{cls.__name__}: its forward calls {wrapper.hits} linear layers over the experts "
            "instead of one; this version cannot steer it"
        )
    namespace = {**vars(sys.modules[cls.__module__])}
    # The code is the model's source with one call wrapped; no foreign code is run. It is defined in
    # a function with a variable `__class__`, because a bare super() looks that variable up.
    factory = ast.parse(f"def {_FACTORY}(__class__):\n    return forward")
    factory.body[0].body.insert(0, tree.body[0])  # type: ignore[attr-defined]
    code = compile(ast.fix_missing_locations(factory), f"<steered {cls.__name__}.forward>", "exec")
    exec(code, namespace)  # noqa: S102
    forward: Callable[..., Any] = namespace[_FACTORY](cls)
    return forward


class _WrapLinear(ast.NodeTransformer):
    """A transformer that replaces the call for the logits by `self._dsmoe_logits(<the call>)`.

    That call is `F.linear(...)`, `self.x(...)` of a child linear layer x with one output per
    expert, or `super().forward(...)` in a router that is itself a linear layer. `hits` counts them.
    """

    def __init__(self, linears: frozenset[str]) -> None:
        self.linears = linears
        self.hits = 0

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not self._gives_logits(node.func):
            return node
        self.hits += 1
        method = ast.Attribute(ast.Name("self", ast.Load()), _LOGITS_METHOD, ast.Load())
        return ast.copy_location(ast.Call(method, [node], []), node)

    def _gives_logits(self, function: ast.AST) -> bool:
        if not isinstance(function, ast.Attribute):
            return False
        owner = function.value
        of_self = isinstance(owner, ast.Name) and owner.id == "self"
        return (
            function.attr == "linear"
            or (function.attr == "forward" and _is_super(owner))
            or (of_self and function.attr in self.linears)
        )


def _is_super(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )
