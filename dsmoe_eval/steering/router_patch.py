"""The patch that edits a router's logits and weights; no other module changes a router's code.

A router has exactly one linear layer that gives the [tokens, experts] logits before scoring and
selection. A shift of logits becomes that layer's bias, so that it costs no operation. `attach`
swaps the module's class for a subclass whose `forward` is the original with a bias open to change
(see `router_source.py`), so that selection, renormalisation and all else remain the model's code.
A plain forward hook that edits the returned logits would change nothing: since transformers 5 the
block ignores them. Where the block selects experts from a router's logits, weights are edited at
the experts' input instead.

All that a call needs is in attributes of the module that do not change while it is steered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import SteeringError
from .forms import write
from .router_source import BIAS, LOGITS, SELECTED, changed_forward
from .routers import Router

_EDIT = "_dsmoe_edit"
_ROUTER = "_dsmoe_router"
_AT_EXPERTS = "_dsmoe_at_experts"
_BIASED = "_dsmoe_biased"
_BASE = "_dsmoe_base"
_ACCELERATE = "_old_forward"

At = int | str
"""An argument of a call: its position or its name."""
Given = dict[At, Any]


class Selected(NamedTuple):
    """An edit of the values that a router has just selected, before it uses them.

    Attributes:
        site: number of the call, of those in the router's source that select
            (`RouterForward.sites`).
        edit: of (values, indices), each [tokens, k]; returns the new values, or `values` after a
            change in memory.
    """

    site: int
    edit: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Edit:
    """The edits inside a router; one that is None is skipped.

    Attributes:
        shift: [experts], in the dtype of the logits; added to the linear layer's bias.
        logits: edits the logits [tokens, experts] before scoring.
        selected: edits the selected values, where the router goes on with them.
        weights: edits the weights after selection, from (weights, indices), each [tokens, k].
    """

    shift: Tensor | None = None
    logits: Callable[[Tensor], Tensor] | None = None
    selected: Selected | None = None
    weights: Callable[[Tensor, Tensor], Tensor] | None = None


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
    base: Edit | None = vars(module).get(_BASE)
    if base is None:
        _apply(router, edit)
        return
    _restore(module)
    try:
        _apply(router, edit if edit.shift is not None else replace(edit, shift=base.shift))
    except BaseException:
        _apply(router, base)
        raise


def attach_base(router: Router, edit: Edit) -> None:
    """Make a router apply `edit` whenever it is not steered."""
    if _BASE not in vars(router.module):
        attach(router, edit)
        setattr(router.module, _BASE, edit)


def detach(module: nn.Module) -> None:
    """Restore the original class of `module` and remove every trace of the patch, but its base."""
    if is_attached(module):
        router: Router = getattr(module, _ROUTER)
        _restore(module)
        if (base := vars(module).get(_BASE)) is not None:
            _apply(router, base)


def detach_base(module: nn.Module) -> None:
    """Remove what `attach_base` added."""
    steered = is_attached(module)
    if vars(module).pop(_BASE, None) is not None and not steered:
        _restore(module)


def has_base(module: nn.Module) -> bool:
    """Return whether `attach_base` gave `module` an edit."""
    return _BASE in vars(module)


def is_attached(module: nn.Module) -> bool:
    """Return whether `module` is steered."""
    edit = vars(module).get(_EDIT)
    return edit is not None and edit is not vars(module).get(_BASE)


def can_shift(router: Router) -> bool:
    """Return whether a shift of the router's logits can be its linear layer's bias."""
    linears = _expert_linears(router)
    place = changed_forward(_original(router.module), linears).bias
    child = router.module.get_submodule((place or "").rpartition(".")[0])
    of_child: Any = type(child)
    plain = child is router.module or of_child.forward is nn.Linear.forward
    return place is not None and plain


def selecting_sites(router: Router) -> int:
    """Return the number of calls in a router's source that select values."""
    return changed_forward(_original(router.module), _expert_linears(router)).sites


def _original(module: nn.Module) -> Any:
    return type(module).__bases__[0] if _EDIT in vars(module) else type(module)


def _apply(router: Router, edit: Edit) -> None:
    module = router.module
    if "forward" in vars(module) and not _is_hooked_by_accelerate(module):
        raise SteeringError(
            f"{type(module).__name__}: another tool replaced its forward; steer before it runs"
        )
    original: Any = type(module)  # mypy treats an nn.Module class as unhashable
    forward = changed_forward(
        original,
        _expert_linears(router),
        edit.logits is not None,
        None if edit.selected is None else edit.selected.site,
    )
    steered: Any = _steered_class(
        original, forward.function, edit.weights is not None and router.selects
    )
    with router.loaded():
        setattr(module, _BIASED, _set_bias(router, forward.bias, edit.shift))
    setattr(module, _EDIT, edit)
    setattr(module, _ROUTER, router)
    if edit.logits is not None:
        setattr(module, LOGITS, _of_experts(router, edit.logits))
    if edit.selected is not None:
        setattr(module, SELECTED, _of_choice(edit.selected.edit))
    module.__class__ = steered
    _rebind(module, original, steered)
    if edit.weights is not None and not router.selects:
        # First of all hooks, so that what is captured there is what the experts receive.
        hook = router.consumer.register_forward_pre_hook(
            _edited_input(router, edit.weights), prepend=True, with_kwargs=True
        )
        setattr(module, _AT_EXPERTS, hook)


def _restore(module: nn.Module) -> None:
    steered, original = type(module), type(module).__bases__[0]
    module.__class__ = original
    # accelerate's hooks may have come after the patch and kept the patched forward.
    _rebind(module, steered, original)
    if hook := vars(module).pop(_AT_EXPERTS, None):
        hook.remove()
    owner, attribute = vars(module).pop(_BIASED)
    vars(owner).pop(attribute, None)
    for name in (_EDIT, _ROUTER, LOGITS, SELECTED):
        vars(module).pop(name, None)


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


def _edited_input(router: Router, edit: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Given]:
        given, weights, indices = experts_input(router, args, kwargs)
        given[weights] = edit(given[weights], given[indices])
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
def _steered_class(cls: Any, function: Callable[..., Any], writes: bool) -> type[nn.Module]:
    @functools.wraps(cls.forward)
    def writing(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = function(self, *args, **kwargs)
        return write(getattr(self, _ROUTER), output, getattr(self, _EDIT).weights)

    body = {"forward": writing if writes else function, "__module__": __name__}
    return type(f"Steered{cls.__name__}", (cls,), body)


def _of_choice(edit: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any], Any]:
    def selected(choice: Any) -> Any:
        values, indices = choice
        edited = edit(values, indices)
        return choice if edited is values else type(choice)((edited, indices))

    return selected


def _of_experts(router: Router, edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return an edit of all logits that leaves those of experts that are always on."""
    experts = router.experts
    if len(router.weight) == experts:
        return edit
    return lambda logits: torch.cat([edit(logits[..., :experts]), logits[..., experts:]], dim=-1)


def _set_bias(router: Router, place: str | None, shift: Tensor | None) -> tuple[Any, str]:
    """Put a bias with `shift` added before the linear layer's; return its module and its name.

    An entry in the module's dictionary comes before its parameters: the model's tensors, its
    state dict and what accelerate does with them stay unchanged.
    """
    name, _, attribute = (place or BIAS).rpartition(".")
    owner = router.module.get_submodule(name)
    if shift is None and attribute != BIAS:
        return owner, ""
    if shift is not None:
        own = getattr(owner, attribute, None)
        exact = torch.promote_types(torch.float32, shift.dtype)
        padded = torch.zeros(len(router.weight), dtype=exact, device=router.device)
        padded[: len(shift)] = shift
        padded = padded if own is None else padded + own.detach().to(router.device, exact)
        shift = padded.to(shift.dtype)
    vars(owner)[attribute] = shift
    return owner, attribute
