"""The source of a router's forward, with the few calls changed through which it is steered.

Most routers compute their logits by `F.linear(x, self.weight)`. Nothing but the source can give
that call a bias at no cost: a tensor subclass, a function mode and a hook all add Python or an
operation to each call (figures in docs/steering.md).
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from .errors import SteeringError

BIAS, LOGITS, SELECTED = "_dsmoe_bias", "_dsmoe_logits", "_dsmoe_selected"
"""Attributes that a changed forward reads: the added bias, and functions of logits and choice."""

_FACTORY = "_dsmoe_factory"


@dataclass(frozen=True, slots=True)
class Forward:
    """A router's forward.

    Attributes:
        function: the forward, of the module and its arguments.
        bias: the name of the bias that the linear layer over the experts reads; with a dot if it is
            that of a child; None if the forward computes its bias.
        sites: number of calls that select values by expert: `topk` and `gather`.
    """

    function: Callable[..., Any]
    bias: str | None
    sites: int


@functools.cache
def changed_forward(
    cls: Any, linears: frozenset[str], logits: bool = False, site: int | None = None
) -> Forward:
    """Return the forward of a router class with its linear layer's bias open to change.

    Args:
        cls: the class.
        linears: names of child linear layers that give the logits.
        logits: whether the logits go through the function `LOGITS` of the module.
        site: the number of the call whose (values, indices) go through the function `SELECTED`.

    Raises:
        SteeringError: the source is not available, or has not exactly one linear layer over the
            experts.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.forward)))
    except (OSError, TypeError, SyntaxError) as error:
        raise SteeringError(
            f"{cls.__name__}: the source code of its forward is not available"
        ) from error
    change = _Change(linears, logits, site)
    tree = change.visit(tree)
    if change.hits != 1:
        raise SteeringError(
            f"{cls.__name__}: its forward calls {change.hits} linear layers over the experts "
            "instead of one; this version cannot steer it"
        )
    as_it_is = not logits and site is None and change.bias != BIAS
    function = cls.forward if as_it_is else _compiled(cls, tree)
    return Forward(function, change.bias, change.sites)


def _compiled(cls: type[nn.Module], tree: ast.AST) -> Callable[..., Any]:
    namespace = {**vars(sys.modules[cls.__module__])}
    # The code is the model's source with some calls changed; no foreign code is run. It is defined
    # in a function with a variable `__class__`, because a bare super() looks that variable up.
    factory = ast.parse(f"def {_FACTORY}(__class__):\n    return forward")
    factory.body[0].body.insert(0, tree.body[0])  # type: ignore[attr-defined]
    code = compile(ast.fix_missing_locations(factory), f"<steered {cls.__name__}.forward>", "exec")
    exec(code, namespace)  # noqa: S102
    forward: Callable[..., Any] = namespace[_FACTORY](cls)
    return forward


class _Change(ast.NodeTransformer):
    """A transformer of the call for the logits, and of one that selects values.

    The first is `F.linear(...)`, `self.x(...)` of a child linear layer x with one output per
    expert, or `super().forward(...)` in a router that is itself a linear layer. `hits` counts them.
    """

    def __init__(self, linears: frozenset[str], logits: bool, site: int | None) -> None:
        self.linears, self.logits, self.site = linears, logits, site
        self.hits = self.sites = 0
        self.bias: str | None = None

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute):
            return node
        owner, name = node.func.value, node.func.attr
        if _is_self(owner):
            if name not in self.linears:
                return node
            self.bias = f"{name}.bias"
        elif name == "forward" and _is_super(owner):
            self.bias = "bias"
        elif name == "linear":
            self.bias = _bias_of(node)
        else:
            return self._selecting(node, name)
        self.hits += 1
        return _given_to(LOGITS, node) if self.logits else node

    def _selecting(self, node: ast.Call, name: str) -> ast.AST:
        if name not in ("topk", "gather"):
            return node
        index = _index_of(node) if name == "gather" else None
        if name == "gather" and index is None:
            return node
        self.sites += 1
        if self.sites - 1 != self.site:
            return node
        if index is None:
            return _given_to(SELECTED, node)
        both = ast.Tuple([node, ast.Name(index.id, ast.Load())], ast.Load())
        return ast.Subscript(_given_to(SELECTED, both), ast.Constant(0), ast.Load())


def _bias_of(node: ast.Call) -> str | None:
    """Return the attribute that is the bias of an `F.linear`; open one if there is none."""
    named = {word.arg: word.value for word in node.keywords}
    given = node.args[2] if len(node.args) > 2 else named.get("bias")
    if given is None or (isinstance(given, ast.Constant) and given.value is None):
        node.args = node.args[:2]
        node.keywords = [word for word in node.keywords if word.arg != "bias"]
        node.keywords.append(ast.keyword("bias", _of_self(BIAS)))
        return BIAS
    if isinstance(given, ast.Attribute) and _is_self(given.value):
        return given.attr
    return None


def _index_of(node: ast.Call) -> ast.Name | None:
    named = {word.arg: word.value for word in node.keywords}
    index = named.get("index", node.args[-1] if node.args else None)
    return index if isinstance(index, ast.Name) else None


def _given_to(method: str, node: ast.expr) -> ast.Call:
    return ast.copy_location(ast.Call(_of_self(method), [node], []), node)


def _of_self(name: str) -> ast.Attribute:
    return ast.Attribute(ast.Name("self", ast.Load()), name, ast.Load())


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_super(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )
